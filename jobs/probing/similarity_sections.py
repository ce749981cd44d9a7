"""Configuration of a probe that compares the likeness of texts with what people say of it."""

from typing import ClassVar, Literal

from pydantic import Field

from augment.frozen import Frozen
from jobs.setup.sections import TRAINING, ClusterConfig, JobConfig


class SimilarityProbeConfig(Frozen):
    """How pairs are judged."""

    name: Literal["similarity"] = Field(
        description=(
            "similarity: Spearman's correlation of the cosines of pairs of texts with their scores,"
            " nothing trained"
        )
    )


class PairsConfig(Frozen):
    """Pairs of texts, each with a score."""

    uri: str = Field(min_length=1, description="table (.csv, .tsv) of two texts and a score a row")
    first: str = Field("sentence1", min_length=1, description="its column of first texts")
    second: str = Field("sentence2", min_length=1, description="its column of second texts")
    score: str = Field(
        "score", min_length=1, description="its column of scores, higher where texts are more alike"
    )


class SimilarityConfig(JobConfig):
    """A probe of an artifact by which texts it finds alike."""

    example: ClassVar[str] = "artifact=runs/a/artifact test.uri=pairs.csv probe.name=similarity"
    most_used: ClassVar[tuple[str, ...]] = (
        "artifact",
        "test.uri",
        "probe.name",
        "compare",
        "out",
        "cluster.num_workers",
        "cluster.use_gpu",
    )
    ignored: ClassVar[tuple[str, ...]] = TRAINING

    artifact: str = Field(
        min_length=1,
        description="the encoder: a path or s3:// prefix, or NAME@ALIAS in a registry",
    )
    compare: str | None = Field(
        None, min_length=1, description="another artifact, judged on the same pairs beside it"
    )
    out: str | None = Field(
        None, min_length=1, description="folder of adaptation.json and its page"
    )
    probe: SimilarityProbeConfig
    test: PairsConfig
    cluster: ClusterConfig = ClusterConfig()
