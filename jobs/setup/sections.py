"""Configuration sections that several jobs share."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    FiniteFloat,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from augment.frozen import Frozen
from pipelines.corpus.file_kinds import Medium
from pipelines.media.contract import Limits
from pipelines.motion.optical_flow import FlowKind


def _globs(value: object) -> object:
    """Take one glob, or several between commas, as a list of them."""
    if not isinstance(value, str):
        return value
    return None if value in ("", "null") else [glob.strip() for glob in value.split(",")]


Globs = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    BeforeValidator(_globs),
    Field(examples=["GLOB,..."]),
]


def _listed(value: object) -> object:
    """Take one value as a list of it."""
    return [value] if isinstance(value, str | int | float) else value


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values or len(set(values)) != len(values):
        raise ValueError("must be one value or several different ones")
    return values


ONE_OR_MORE = (BeforeValidator(_listed), AfterValidator(_distinct))
Rates = Annotated[tuple[PositiveFloat, ...], *ONE_OR_MORE]
Decays = Annotated[tuple[NonNegativeFloat, ...], *ONE_OR_MORE]


def _ascending(window: tuple[float, float]) -> tuple[float, float]:
    if not window[0] < window[1]:
        raise ValueError(f"must be [LOW,HIGH] with LOW < HIGH, got {list(window)}")
    return window


def _one_or_three(bands: tuple[int, ...]) -> tuple[int, ...]:
    if len(bands) not in (0, 1, 3):
        raise ValueError(f"must name one band or three, got {list(bands)}")
    return bands


TextColumns = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    *ONE_OR_MORE,
    Field(examples=["NAME", "[NAME,...]"]),
]
Window = Annotated[tuple[FiniteFloat, FiniteFloat], AfterValidator(_ascending)]
Bands = Annotated[tuple[PositiveInt, ...], AfterValidator(_one_or_three)]


class JobConfig(Frozen):
    """What a job is told.

    Attributes:
        example: Words of a command line.
        most_used: Dotted keys that `--help` shows first; the required ones among them.
        ignored: Dotted keys, or the sections of them, that the job does not use: `--help` leaves
            them out, the command line refuses them, and in a recipe they are passed over.
        of_another: The job whose command line it also takes as it is: its keys are then not
            refused, but said to have no effect.
    """

    example: ClassVar[str] = ""
    most_used: ClassVar[tuple[str, ...]] = ()
    ignored: ClassVar[tuple[str, ...]] = ()
    of_another: ClassVar[str] = ""

    @classmethod
    def check_given(cls, values: dict[str, Any]) -> None:
        """Refuse what a command line must not ask for but a configuration on disk may hold.

        Raises:
            ValueError: with key, value and remedy.
        """

    @classmethod
    def note(cls, values: dict[str, Any]) -> str | None:
        """Say in one line what a command line asks for in vain, though it may; None for nothing."""
        return None


# What a job ignores of the shared sections.
DECODING = (
    "source.max_pixels",
    "source.max_bytes",
    "source.max_frames",
    "source.max_duration_s",
    "source.decode_timeout_s",
    "source.allow_truncated",
    "source.value_range",
    "source.bands",
    "source.max_bad_fraction",
    "source.verify",
)
ORDER = ("source.interleave",)
TRAINING = (
    "cluster.max_failures",
    "cluster.gpus_per_worker",
    "cluster.view_actors",
    "cluster.gpus_per_view_actor",
)
WORKERS = ("cluster.num_workers", "cluster.cpus_per_worker", "cluster.use_gpu")


class SourceConfig(Frozen):
    """Where samples come from."""

    uri: str = Field(
        min_length=1,
        description=(
            "folder, glob, s3:// prefix, brace-expanded .tar shards, a manifest, or rendered"
            " scenes: synthetic://scenes?seed=0&num=1000&size=64"
        ),
    )
    version: int | None = Field(
        None, ge=1, description="which version of a manifest; null: the newest"
    )
    members: Annotated[Globs | None, BeforeValidator(_globs)] = Field(
        None,
        description=(
            "globs of the members of .tar shards to take, between commas, as *.jpg,*.png; * crosses"
            " folders; null: as listed, or all"
        ),
    )
    any_name: bool | None = Field(
        None,
        description=(
            "tell files whose names do not say what they hold by their first bytes, one request"
            " each; null: as listed, or false"
        ),
    )
    media: Medium | None = Field(
        None,
        description=(
            "what of the source is a sample: pictures (images and videos), audio (wav, flac, mp3,"
            " ogg, opus, m4a, aac, aiff) or text (a line of .txt, an object of .jsonl, a row of"
            " .csv or .tsv); null: what the method takes, else as listed, or pictures"
        ),
    )
    text_columns: TextColumns | None = Field(
        None,
        description=(
            "fields of .jsonl, or columns of .csv and .tsv, that are texts, each a sample by"
            " itself; null: as listed, or the first of text, sentence and content that is there"
        ),
    )
    max_pixels: int = Field(
        100_000_000, ge=1, description="larger images and frames are quarantined undecoded, px"
    )
    max_bytes: int = Field(2**30, ge=1, description="larger files are quarantined unread, bytes")
    max_frames: int = Field(
        2_000_000, ge=1, description="videos of more frames are quarantined undecoded"
    )
    max_duration_s: float = Field(
        43_200, gt=0, description="longer videos and sounds are quarantined, seconds"
    )
    decode_timeout_s: float = Field(
        60, gt=0, description="a sample that takes longer to decode is quarantined, seconds"
    )
    allow_truncated: bool = Field(
        False, description="use files that were cut off: images part grey, videos up to the cut"
    )
    value_range: Literal["auto", "type", "percentiles"] | Window = Field(
        "auto",
        description=(
            "which values of images of more than 8 bits are black and white. auto: as the file says"
            " (sBIT, MaxSampleValue, bits a sample), else all that its type holds; type: always the"
            " latter; percentiles: measured once over the corpus; or two values. A job warns where"
            " images come out nearly constant"
        ),
        examples=["[LOW,HIGH]"],
    )
    bands: Bands = Field(
        (),
        description=(
            "channels of TIFF files to show, from 1 on: one, or red, green and blue, as [3,2,1]"
        ),
        examples=["[BAND,...]"],
    )
    max_bad_fraction: float = Field(
        0.1, ge=0, le=1, description="stop when more of the samples than this are bad"
    )
    interleave: int = Field(
        1,
        ge=1,
        description=(
            "row groups drawn from together, each of up to 8192 samples, from a shard up to 64 MiB;"
            " more for shards packed in order of class"
        ),
    )
    verify: Literal["etag", "none"] = Field(
        "none",
        description=(
            "etag: check content against the manifest's MD5, size or time (not with SSE-KMS etags)"
        ),
    )

    def reading(self) -> dict[str, Any]:
        """Return the settings that change what is seen, where they are not the default."""
        changed = {"value_range": self.value_range, "bands": self.bands}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in changed.items()
            if value != SourceConfig.model_fields[name].default
        }

    def limits(self) -> Limits:
        """Return what a file may cost."""
        if self.value_range == "percentiles":
            raise ValueError("source.value_range percentiles was not measured: give [LOW,HIGH]")
        return Limits(
            max_pixels=self.max_pixels,
            max_bytes=self.max_bytes,
            max_frames=self.max_frames,
            max_duration_s=self.max_duration_s,
            timeout_s=self.decode_timeout_s,
            allow_truncated=self.allow_truncated,
            value_range=self.value_range,
            bands=self.bands,
        )


PER_VIDEO = Field(
    None,
    ge=0,
    description=(
        "clips of each video, set when it is listed; 0 leaves videos out; null: as listed, or 1"
    ),
)


class PerVideoConfig(Frozen):
    """How often each video is listed."""

    per_video: int | None = PER_VIDEO


class ListedClipConfig(PerVideoConfig):
    """How videos are listed."""

    curves: bool = Field(
        False,
        description=(
            "look once at every frame of each video, and keep how much it changes, its cuts and its"
            " dark bars beside the manifest: for clip.motion, clip.cross_cuts and clip.crop_bars"
        ),
    )
    flow: FlowKind | None = Field(
        None,
        description=(
            "with curves: keep how far places move too, by optical flow, for clip.motion_by; null:"
            " not"
        ),
    )

    def idle(self) -> dict[str, str]:
        """Return what is only found where videos are looked at."""
        return {} if self.curves else {"flow": "curves"}


class ClusterConfig(Frozen):
    """Which Ray cluster, and what the job takes of it."""

    address: str = Field(
        "auto", description="auto: RAY_ADDRESS when set, else a local Ray; local; or HOST:PORT"
    )
    num_workers: (
        Annotated[int, Field(ge=1)]
        | Annotated[str, Field(pattern=r"^[1-9]\d*\.\.[1-9]\d*$", examples=["MIN..MAX"])]
    ) = Field(
        1,
        description=(
            "training processes, or those that embed; MIN..MAX: as many as there is room for"
        ),
    )
    cpus_per_worker: Literal["auto"] | float = Field(
        "auto", description="logical CPUs a training process holds"
    )
    max_failures: int = Field(
        3,
        ge=-1,
        description="failures in a row without a new checkpoint that are forgiven; -1: any number",
    )
    use_gpu: Literal["auto"] | bool = Field(
        "auto", description="one GPU a training process; auto: where there are any or may come"
    )
    gpus_per_worker: float = Field(
        1.0,
        gt=0.5,
        le=1,
        description="share of its GPU a training process holds; the rest is for view actors",
    )
    view_actors: int = Field(
        1, ge=1, description="actors that change colours where views.placement is actor"
    )
    gpus_per_view_actor: float = Field(
        1.0,
        ge=0,
        le=1,
        description="share of a GPU each of them holds where the cluster has any; 0: on the CPU",
    )
    shared_fs: bool = Field(False, description="local paths are the same files on every node")
    storage_retry_s: float = Field(
        300.0, ge=0, description="how long a failing storage request is tried again, s"
    )
    storage_timeout_s: float = Field(
        30.0, gt=0, description="a storage request without a byte for so long stalls, s"
    )

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if self.min_workers > self.max_workers:
            raise ValueError(
                f"num_workers must be MIN..MAX with MIN <= MAX, got {self.num_workers}"
            )
        return self

    @property
    def min_workers(self) -> int:
        """Return the fewest training processes to start with."""
        return int(str(self.num_workers).partition("..")[0])

    @property
    def max_workers(self) -> int:
        """Return the most training processes to grow to."""
        return int(str(self.num_workers).rpartition("..")[2])
