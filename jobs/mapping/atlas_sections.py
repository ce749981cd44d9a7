"""What `jobs.atlas` is told."""

from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from augment.frozen import Frozen
from jobs.setup.sections import TRAINING, WORKERS, ClusterConfig, JobConfig


def _several(value: object) -> object:
    """Take one word, or several between commas, as a list of them."""
    return [word.strip() for word in value.split(",")] if isinstance(value, str) else value


class MapConfig(Frozen):
    """How the map is made."""

    points: int = Field(
        1_000_000, ge=1, le=4_000_000, description="samples shown, at most; of more, some by key"
    )
    landmarks: int = Field(
        100_000,
        ge=16,
        description="samples that the map is learnt from, at most; all others are placed by them",
    )
    clusters: int = Field(20, ge=1, le=1000, description="of embeddings, to colour by")
    neighbours: int = Field(8, ge=0, le=50, description="of each sample, shown on a click")


class ThumbnailsConfig(Frozen):
    """Which small pictures the page shows."""

    most: int = Field(
        20_000,
        ge=0,
        description="made of all samples, or of so many that are spread over the map; 0: none",
    )
    side: int = Field(64, ge=16, le=256, description="longer side of each, px")


class AtlasConfig(JobConfig):
    """An atlas."""

    example: ClassVar[str] = "embeddings=runs/a-embeddings out=runs/a-atlas"
    most_used: ClassVar[tuple[str, ...]] = (
        "embeddings",
        "out",
        "colour",
        "thumbnails.most",
        "atlas.landmarks",
    )
    ignored: ClassVar[tuple[str, ...]] = (*TRAINING, *WORKERS)

    embeddings: str = Field(
        min_length=1, description="what jobs.export wrote: its out, a path or s3:// prefix"
    )
    out: str = Field(min_length=1, description="folder; new, or holding the same atlas")
    colour: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_several)
    ] = Field(
        (),
        description=(
            "columns of the export to colour by, beside cluster, folder, version and modified;"
            " []: all that hold classes, numbers or times"
        ),
        examples=["[NAME,...]"],
    )
    column: str | None = Field(
        None, min_length=1, description="of vectors, where there are several; null: the only one"
    )
    manifest: str | None = Field(
        None,
        min_length=1,
        description=(
            "the samples' listing, for thumbnails and versions; null: the one that was exported, or"
            " manifest/ beside the embeddings"
        ),
    )
    seed: int = Field(0, ge=0, description="of the map, its clusters, and of what is drawn")
    atlas: MapConfig = MapConfig()
    thumbnails: ThumbnailsConfig = ThumbnailsConfig()
    cluster: ClusterConfig = ClusterConfig()

    def asked(self) -> dict[str, Any]:
        """Return the settings that make two atlases the same."""
        return {
            "column": self.column,
            "colour": list(self.colour),
            "seed": self.seed,
            **{f"atlas.{name}": value for name, value in self.atlas.model_dump().items()},
            **{f"thumbnails.{name}": value for name, value in self.thumbnails.model_dump().items()},
        }
