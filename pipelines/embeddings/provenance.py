"""Where stored vectors come from, as it stands in the schema metadata of the files that hold
them.

Under the key `afield` lies one JSON object, in Parquet's key-value metadata as in Lance's schema:
source, manifest version, and of each column of vectors the artifact's digest, pooling, layer, type,
preprocessing and what was taken of videos. Vectors of two encoders must not be compared; this is
how it is told.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from models.artifact import Artifact
from models.encoders.encoder import Pooling
from pipelines.embeddings.features import Features, Form, Kind
from pipelines.media.clips import Sampling

KEY = b"afield"
_FORMAT = 3  # of the metadata: 1 and 2 had none
# What does not change what a vector means: places, and how exactly it is written.
_NOT_TOLD_APART = ("artifact", "dtype")
_OF_VIDEOS = ("num_frames", "frame_stride", "fps", "each_frame")


@dataclass(frozen=True)
class VectorColumn:
    """How a column of vectors was made.

    Attributes:
        artifact: URI of the artifact when it was made, to embed a query with.
        artifact_digest: What the artifact is, wherever it lies.
        encoder: Its encoder's name.
        kind, pooling, layer, last_blocks, form, normalised: As of `Features`.
        dtype: float32 or float16.
        shape: Of one sample's values: (D,), of tokens (N, D), of maps (D, h, w). Stored flat.
        preprocess: How images were prepared.
        num_frames: Frames taken of a clip of a video, 1 of images too; None: not recorded,
            as of exports of earlier versions, or not of pictures.
        frame_stride, fps: How far apart they are, one of both; None of a single frame.
        each_frame: Whether a row is one of those frames, and not the mean of their vectors.
    """

    artifact: str
    artifact_digest: str
    encoder: str
    kind: Kind
    pooling: Pooling
    layer: int | None
    last_blocks: int
    form: Form
    normalised: bool
    dtype: str
    shape: tuple[int, ...]
    preprocess: dict[str, Any]
    num_frames: int | None = None
    frame_stride: int | None = None
    fps: float | None = None
    each_frame: bool = False

    @classmethod
    def of(
        cls,
        features: Features,
        encoder: Artifact,
        shape: tuple[int, ...],
        taken: Sampling | None = None,
        *,
        each_frame: bool = False,
    ) -> "VectorColumn":
        """Describe what features of an artifact are, the same features always alike.

        Args:
            features: What is computed.
            encoder: By which artifact.
            shape: Of one sample's values.
            taken: Of videos; None: samples are no pictures.
            each_frame: Whether every frame is a row.
        """
        several = taken if taken and taken.num_frames > 1 else None
        network = encoder.encoder
        if network.pools_its_layers and features.pooling == network.pooling:
            features = replace(features, pooling="auto")
        if features.layer is not None and features.layers(network.depth)[-1] == network.depth:
            features = replace(features, layer=None)
        return cls(
            artifact=features.artifact,
            artifact_digest=encoder.digest,
            encoder=network.name,
            kind=features.kind,
            pooling=features.pooling,
            layer=features.layer,
            last_blocks=features.last_blocks,
            form=features.form,
            normalised=features.normalised,
            dtype="float16" if features.half else "float32",
            shape=shape,
            preprocess=encoder.prepared.model_dump(mode="json"),
            num_frames=taken.num_frames if taken else None,
            frame_stride=several.frame_stride if several and several.fps is None else None,
            fps=several.fps if several else None,
            each_frame=each_frame,
        )

    def features(self, artifact: str | None = None) -> Features:
        """Return what makes such vectors of further images.

        Args:
            artifact: Where the artifact lies now; None: where it lay.
        """
        return Features(
            artifact or self.artifact,
            self.kind,
            self.pooling,
            self.layer,
            self.last_blocks,
            self.form,
            self.normalised,
            self.dtype == "float16",
        )

    @property
    def taken(self) -> Sampling | None:
        """Return what is taken of a video whose frames' vectors are averaged; None: one frame, or
        what the encoder sees."""
        if not self.num_frames or self.num_frames == 1 or self.each_frame:
            return None
        return Sampling(self.num_frames, self.frame_stride or 1, self.fps, as_frames=False)

    def differences(self, other: "VectorColumn") -> list[str]:
        """Say in what two columns differ that makes their vectors incomparable; what one of them
        does not record of videos is no difference."""
        ours = asdict(self)
        theirs = asdict(other)
        unknown = None in (self.num_frames, other.num_frames)
        passed_over = (*_NOT_TOLD_APART, *(_OF_VIDEOS if unknown else ()))
        named = [name for name in ours if name not in passed_over]
        return [
            f"{name} ({_short(ours[name])} and {_short(theirs[name])})"
            for name in named
            if ours[name] != theirs[name]
        ]


def _short(value: Any) -> str:
    """Return a value for a message: of a digest what people compare."""
    text = str(value)
    return text[:12] if len(text) == 64 else text


@dataclass(frozen=True)
class Provenance:
    """What the files of an export say of themselves.

    Attributes:
        source: URI of the corpus.
        manifest_version: The listing that was embedded; of a file of an export that was brought up
            to date, the one when the file was written.
        columns: Columns of vectors.
    """

    source: str
    manifest_version: int
    columns: dict[str, VectorColumn]

    def metadata(self) -> dict[bytes, bytes]:
        """Return it as schema metadata."""
        return {KEY: json.dumps({"format": _FORMAT, **asdict(self)}, sort_keys=True).encode()}

    @classmethod
    def read(cls, metadata: Mapping[bytes, bytes] | None) -> "Provenance | None":
        """Read schema metadata; None where it says nothing of this project."""
        text = (metadata or {}).get(KEY)
        return None if text is None else cls.from_json(json.loads(text))

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> "Provenance":
        """Make it of what `metadata` wrote."""
        columns = {
            name: VectorColumn(**{**one, "shape": tuple(one["shape"])})
            for name, one in told["columns"].items()
        }
        return cls(told["source"], told["manifest_version"], columns)


def check_same(what: str, column: VectorColumn, other_what: str, other: VectorColumn) -> None:
    """Refuse to compare vectors of two encoders, or of other frames of videos.

    Args:
        what: Where the first are from, for the message.
        column: Of those.
        other_what: Where the others are from.
        other: Of those.

    Raises:
        ValueError: they were not made alike; in one line.
    """
    if different := column.differences(other):
        raise ValueError(
            f"{what} and {other_what} hold vectors of two encoders, which cannot be compared: they"
            f" differ in {', '.join(different)}; export one of them anew"
        )
