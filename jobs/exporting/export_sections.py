"""What an export is told of the features that it takes."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from augment.frozen import other_of
from jobs.setup.sections import (
    ORDER,
    TRAINING,
    ClusterConfig,
    JobConfig,
    PerVideoConfig,
    SourceConfig,
)
from models.encoders.encoder import Pooling
from pipelines import schema
from pipelines.embeddings.features import Features, Form
from pipelines.embeddings.part_files import Format
from pipelines.media.clips import Sampling
from pipelines.packing.carried import TEXTS

# Of what lies beside samples: since 2 loose files and class folders give something.
CARRY_RULES = 2


def _several(value: object) -> object:
    """Take one word, or several between commas, as a list of them."""
    return [word.strip() for word in value.split(",")] if isinstance(value, str) else value


Words = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_several)]


class ExportedClipConfig(PerVideoConfig):
    """What is taken of each clip of a video."""

    num_frames: int = Field(1, ge=1, description="frames of a clip; 1: the one in the middle")
    frame_stride: int = Field(
        4, ge=1, description="frames of the video from one frame of a clip to the next"
    )
    fps: float | None = Field(
        None, gt=0, description="frames per second of a clip; null: by frame_stride"
    )
    rows: Literal["clip", "frame"] = Field(
        "clip",
        description=(
            "clip: a row a clip, the mean of its frames' vectors; frame: a row a frame, with its"
            " number and times, those behind the end of the video left out"
        ),
    )

    @classmethod
    def voided_by(cls, key: str, values: dict[str, Any]) -> tuple[str, ...]:
        """Return what a way to space a clip's frames leaves of the other way."""
        return other_of(("fps", "frame_stride"), key, values)

    def idle(self) -> dict[str, str]:
        """Return what a single frame leaves of a clip."""
        of_several = ("frame_stride", "fps", "rows")
        return dict.fromkeys(of_several, "num_frames") if self.num_frames == 1 else {}

    @model_validator(mode="after")
    def _frames_have_times(self) -> Self:
        if self.each_frame and self.fps is None:
            raise ValueError("clip.rows=frame needs clip.fps, frames per second: set it")
        return self

    @property
    def each_frame(self) -> bool:
        """Tell whether every frame is a row."""
        return self.num_frames > 1 and self.rows == "frame"

    def sampling(self, per_video: int) -> Sampling:
        """Return which frames are taken of the clips of videos listed so often."""
        single = self.num_frames == 1
        return Sampling(
            self.num_frames, self.frame_stride, self.fps, per_video, as_frames=single, seed=None
        )


class ExportConfig(JobConfig):
    """An export of embeddings."""

    example: ClassVar[str] = "artifact=runs/a/artifact source.uri=photos out=runs/a-embeddings"
    most_used: ClassVar[tuple[str, ...]] = (
        "artifact",
        "source.uri",
        "out",
        "format",
        "dtype",
        "pooling",
        "cluster.num_workers",
        "cluster.use_gpu",
    )
    ignored: ClassVar[tuple[str, ...]] = (*ORDER, *TRAINING)

    artifact: Words = Field(
        min_length=1,
        description=(
            "the encoder: a path or s3:// prefix, or NAME@ALIAS in a registry; of several, between"
            " commas, each gives a column embedding_1, embedding_2, ... from one pass over the"
            " pixels"
        ),
        examples=["URI,..."],
    )
    source: SourceConfig
    out: str = Field(min_length=1, description="folder; new, or holding the same export")
    format: Format = Field(
        "parquet", description="of the files; lance needs pip install 'afield[lance]'"
    )
    dtype: Literal["float32", "float16"] = Field("float32", description="of the vectors")
    pooling: Pooling = Field(
        "auto",
        description=(
            "how a layer's places become one vector: class (a transformer's class token), mean,"
            " max, gem (mean of third powers); auto: as the artifact embeds"
        ),
    )
    layer: int | None = Field(
        None,
        description=(
            "block of a transformer or stage of a convolutional network: 1 is next to the pixels,"
            " -1 the last; null: the last"
        ),
    )
    last_blocks: int = Field(1, ge=1, description="so many layers up to that one, joined")
    form: Form = Field(
        "pooled",
        description=(
            "pooled: a vector a sample; joint: that vector where texts are, of an artifact of"
            " captions, for jobs.search text=; tokens (N x D) or maps (D x h x w): all its places,"
            " flat, the files say their shape"
        ),
    )
    normalise: bool = Field(False, description="give vectors length 1; of places each")
    carry: Words = Field(
        (),
        description=(
            "columns to carry along: caption, json (.txt and .json beside a sample), label (.cls or"
            " .json beside it; where no sample has one, its first folder below the source), or a"
            " column of the manifest, as etag"
        ),
        examples=["NAME,..."],
    )
    part_rows: int = Field(
        8192, ge=16, description="rows of a part; fewer where their vectors exceed 256 MiB"
    )
    clip: ExportedClipConfig = ExportedClipConfig()
    cluster: ClusterConfig = ClusterConfig()

    def idle(self) -> dict[str, str]:
        """Return what places without pooling leave of it."""
        return {} if self.form == "pooled" else {"pooling": "form"}

    def columns(self, artifacts: list[str]) -> dict[str, Features]:
        """Return the columns of vectors, one an artifact.

        Args:
            artifacts: Where they lie.
        """
        several = len(artifacts) > 1
        names = [
            f"{schema.EMBEDDING}_{number}" if several else schema.EMBEDDING
            for number in range(1, len(artifacts) + 1)
        ]
        return {name: self._features(uri) for name, uri in zip(names, artifacts, strict=True)}

    def _features(self, uri: str) -> Features:
        return Features(
            uri,
            pooling=self.pooling,
            layer=self.layer,
            last_blocks=self.last_blocks,
            form=self.form,
            normalised=self.normalise,
        )

    def made(self) -> dict[str, Any]:
        """Return the settings that change what is written, where they are not the default."""
        names = ("format", "pooling", "layer", "last_blocks", "form", "normalise", "carry")
        values = self.model_dump(mode="json", include=set(names), exclude_defaults=True)
        clip = self.clip.model_dump(mode="json", exclude_defaults=True, exclude={"per_video"})
        made = {"files" if name == "format" else name: values[name] for name in sorted(values)}
        if TEXTS.keys() & {*self.carry}:
            made["carry_rules"] = CARRY_RULES
        return made | ({"clip": clip} if clip else {})
