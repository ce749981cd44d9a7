"""What `jobs.curate` is told."""

from typing import Any, ClassVar

from pydantic import Field

from augment.frozen import Frozen
from jobs.setup.sections import (
    ORDER,
    TRAINING,
    WORKERS,
    ClusterConfig,
    JobConfig,
    SourceConfig,
)


class DuplicatesConfig(Frozen):
    """Which samples are copies of others."""

    min_cosine: float | None = Field(
        0.9,
        gt=0,
        le=1,
        description=(
            "of the embeddings of two samples that may be copies of one picture; null: duplicates"
            " stay"
        ),
    )
    min_alike: float | None = Field(
        0.6,
        gt=0,
        le=1,
        description=(
            "of two pictures laid over each other, cut and mirrored, the correlation of their"
            " details; null: the cosine alone decides, and no picture is read (set it to 0.95 or"
            " more then)"
        ),
    )


class OutliersConfig(Frozen):
    """Which samples are unlike all others."""

    max_distance: float | None = Field(
        None,
        gt=1,
        description=(
            "of a sample from the nearest centre of a cluster (1 - cosine), in medians of that"
            " distance over the corpus; those further out go; null: none"
        ),
    )


class BalanceConfig(Frozen):
    """How many samples stay in the end, shared out alike over clusters."""

    num_samples: int | None = Field(
        None, ge=1, description="that stay, taken level by level of clusters; null: all"
    )
    clusters: int | None = Field(
        None,
        ge=1,
        description=(
            "of the lowest level, for duplicates too; null: one for every 1,000 samples, of a small"
            " corpus more; each level above has an eighth as many"
        ),
    )


# Of a manifest nothing is listed, and what cannot be read stays.
_NOT_READ = (
    "source.members",
    "source.any_name",
    "source.max_bad_fraction",
    "source.verify",
)


class CurateConfig(JobConfig):
    """A curation."""

    example: ClassVar[str] = (
        "embeddings=runs/a-embeddings source.uri=s3://bucket/manifest out=s3://bucket/manifest"
    )
    most_used: ClassVar[tuple[str, ...]] = (
        "embeddings",
        "source.uri",
        "out",
        "duplicates.min_cosine",
        "balance.num_samples",
        "outliers.max_distance",
        "undo",
    )
    ignored: ClassVar[tuple[str, ...]] = (*_NOT_READ, *ORDER, *TRAINING, *WORKERS)

    embeddings: str | None = Field(
        None,
        min_length=1,
        description=(
            "what jobs.export wrote of the manifest: its out, a path or s3:// prefix; null: with"
            " undo=true alone"
        ),
    )
    source: SourceConfig
    out: str = Field(
        min_length=1,
        description=(
            "the manifest that gets the new version: source.uri itself, or a new place, which"
            " begins with a copy of it"
        ),
    )
    column: str | None = Field(
        None, min_length=1, description="of vectors, where there are several; null: the only one"
    )
    undo: bool = Field(False, description="make a version with all that earlier curations took out")
    duplicates: DuplicatesConfig = DuplicatesConfig()
    outliers: OutliersConfig = OutliersConfig()
    balance: BalanceConfig = BalanceConfig()
    seed: int = Field(0, ge=0, description="of clusters, and of what is taken of them")
    cluster: ClusterConfig = ClusterConfig()

    def asked(self) -> dict[str, Any]:
        """Return the settings that make two curations the same."""
        return {
            "column": self.column,
            "duplicates.min_cosine": self.duplicates.min_cosine,
            "duplicates.min_alike": self.duplicates.min_alike,
            "outliers.max_distance": self.outliers.max_distance,
            "balance.num_samples": self.balance.num_samples,
            "balance.clusters": self.balance.clusters,
            "seed": self.seed,
            **self.source.reading(),
        }
