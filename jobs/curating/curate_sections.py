"""What `jobs.curate` is told."""

from typing import Any, ClassVar

from pydantic import Field

from augment.frozen import Frozen
from jobs.corpora.paired_source import PairedSource
from jobs.setup.sections import (
    ORDER,
    TRAINING,
    WORKERS,
    ClusterConfig,
    JobConfig,
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


class CaptionFitConfig(Frozen):
    """Which samples have captions that do not fit."""

    min_cosine: float | None = Field(
        None,
        ge=-1,
        le=1,
        description=(
            "of a sample's embedding and those of its captions, on average; below it goes; null:"
            " however little they fit"
        ),
    )
    keep_fraction: float | None = Field(
        None,
        gt=0,
        le=1,
        description="of the samples with captions, those that fit best stay; null: all",
    )
    artifact: str | None = Field(
        None,
        min_length=1,
        description="that the embeddings were made by, to embed captions; null: where it lay then",
    )

    @property
    def wanted(self) -> bool:
        """Tell whether captions are looked at."""
        return self.min_cosine is not None or self.keep_fraction is not None

    def idle(self) -> dict[str, str]:
        """Return what has no use where captions are not looked at."""
        return {} if self.wanted else {"artifact": "min_cosine"}


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
    "source.version",
    "source.members",
    "source.any_name",
    "source.max_bad_fraction",
    "source.verify",
    "source.pair",
    "source.pair_kind",
    "source.pair_camera",
    "source.pair_unit_m",
    "source.poses",
    "source.pose_gap",
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
    source: PairedSource
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
    captions: CaptionFitConfig = CaptionFitConfig()
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
            **self._asked_of_captions(),
        }

    def _asked_of_captions(self) -> dict[str, Any]:
        """Return what is asked of captions; nothing where they are not looked at, as before one
        could."""
        if not self.captions.wanted:
            return {}
        return {
            "captions.min_cosine": self.captions.min_cosine,
            "captions.keep_fraction": self.captions.keep_fraction,
            **{f"source.{name}": value for name, value in self.source.pairing().items()},
        }
