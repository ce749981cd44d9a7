"""Configuration sections that jobs share, and the configuration of a pretraining run."""

import hashlib
import json
import math
from functools import cache
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializeAsAny, create_model, model_validator

from augment.frozen import Frozen
from augment.recipe import Views
from jobs.setup.command_line import InputError
from models import artifact
from models.artifact import Artifact
from models.encoders.factory import EncoderConfig
from models.method import MethodConfig
from models.optim import OptimConfig
from models.registry import METHODS
from pipelines.corpus.manifest import Manifest
from pipelines.media.clips import Sampling
from pipelines.media.image import Limits
from pipelines.stream.plan import Plan


class SourceConfig(Frozen):
    """Where samples come from."""

    uri: str = Field(min_length=1, description="folder, glob, s3:// prefix, brace-expanded .tar shards, or a manifest")
    max_pixels: int = Field(100_000_000, ge=1, description="larger images and frames are quarantined undecoded, px")
    max_bytes: int = Field(2**30, ge=1, description="larger files are quarantined unread, bytes")
    max_frames: int = Field(2_000_000, ge=1, description="videos of more frames are quarantined undecoded")
    max_duration_s: float = Field(43_200, gt=0, description="longer videos are quarantined undecoded, seconds")
    decode_timeout_s: float = Field(
        60, gt=0, description="a sample that takes longer to decode is quarantined, seconds"
    )
    allow_truncated: bool = Field(
        False, description="use files that were cut off: images part grey, videos up to the cut"
    )
    max_bad_fraction: float = Field(0.1, ge=0, le=1, description="stop when more of the samples than this are bad")
    interleave: int = Field(
        1,
        ge=1,
        description="row groups drawn from together, each of up to 8192 samples, from a shard up to 64 MiB; more for "
        "shards packed in order of class",
    )
    verify: Literal["etag", "none"] = Field(
        "none", description="etag: check content against the manifest's MD5, size or time (not with SSE-KMS etags)"
    )

    def limits(self) -> Limits:
        """What a file may cost."""
        return Limits(
            max_pixels=self.max_pixels,
            max_bytes=self.max_bytes,
            max_frames=self.max_frames,
            max_duration_s=self.max_duration_s,
            timeout_s=self.decode_timeout_s,
            allow_truncated=self.allow_truncated,
        )


PER_VIDEO = Field(
    None, ge=0, description="clips of each video, set when it is listed; 0 leaves videos out; null: as listed, or 1"
)


class PerVideoConfig(Frozen):
    """How often each video is listed."""

    per_video: int | None = PER_VIDEO


class ClipConfig(Frozen):
    """What is taken of videos."""

    num_frames: int = Field(16, ge=1, description="frames of a clip; a shorter video's last frame is repeated")
    frame_stride: int = Field(4, ge=1, description="frames of the video from one frame of a clip to the next")
    fps: float | None = Field(None, gt=0, description="frames per second of a clip; null: by frame_stride")
    per_video: int | None = PER_VIDEO
    as_frames: bool = Field(False, description="single frames instead of clips, for methods that take images")

    def sampling(self, manifest: Manifest, seed: int) -> Sampling:
        """How samples are drawn from the videos of a manifest."""
        return Sampling(self.num_frames, self.frame_stride, self.fps, manifest.per_video, self.as_frames, seed)


class ClusterConfig(Frozen):
    """Which Ray cluster, and what the job takes of it."""

    address: str = Field("auto", description="auto: RAY_ADDRESS when set, else a local Ray; local; or HOST:PORT")
    num_workers: Annotated[int, Field(ge=1)] | Annotated[str, Field(pattern=r"^[1-9]\d*\.\.[1-9]\d*$")] = Field(
        1, description="training processes; MIN..MAX: as many as the cluster has room for"
    )
    cpus_per_worker: Literal["auto"] | float = Field("auto", description="logical CPUs a training process holds")
    max_failures: int = Field(3, ge=-1, description="worker group restarts before giving up; -1: no limit")
    use_gpu: Literal["auto"] | bool = Field("auto", description="one GPU a training process; auto: where there are any")
    gpus_per_worker: float = Field(
        1.0, gt=0.5, le=1, description="share of its GPU a training process holds; the rest is for view actors"
    )
    view_actors: int = Field(1, ge=1, description="actors that change colours where views.placement is actor")
    gpus_per_view_actor: float = Field(
        1.0, ge=0, le=1, description="share of a GPU each of them holds where the cluster has any; 0: on the CPU"
    )
    shared_fs: bool = Field(False, description="local paths are the same files on every node")
    storage_retry_s: float = Field(300.0, ge=0, description="how long a failing storage request is tried again, s")
    storage_timeout_s: float = Field(30.0, gt=0, description="a storage request without a byte for so long stalls, s")

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if self.min_workers > self.max_workers:
            raise ValueError(f"num_workers must be MIN..MAX with MIN <= MAX, got {self.num_workers}")
        return self

    @property
    def min_workers(self) -> int:
        """Fewest training processes to start with."""
        return int(str(self.num_workers).partition("..")[0])

    @property
    def max_workers(self) -> int:
        """Most training processes to grow to."""
        return int(str(self.num_workers).rpartition("..")[2])


class CheckpointConfig(Frozen):
    """How often to save the state, and how much of it to keep."""

    every_s: float = Field(300.0, gt=0, description="seconds between checkpoints, by rank 0's clock")
    keep: int = Field(2, ge=1, description="checkpoints kept; older ones of this run are deleted")


class HealthConfig(Frozen):
    """How an encoder is watched without labels, and what happens when it stops telling images apart."""

    every_steps: int = Field(100, ge=1, description="optimiser steps between looks at images of the corpus")
    num_samples: int = Field(512, ge=8, description="images looked at: the first ones of the first epoch")
    on_collapse: Literal["warn", "stop", "rollback"] = Field(
        "warn",
        description="rollback: once, to the last healthy checkpoint at half the learning rate; a second collapse stops",
    )
    min_spread: float = Field(
        0.2, ge=0, lt=1, description="collapsed below: spread of the projections over samples, 1 when spread evenly"
    )
    min_rankme: float = Field(1.5, ge=1, description="collapsed below: effective rank of the embeddings")
    grace_steps: int = Field(50, ge=0, description="steps before the first that is judged; norms settle in them")


class ArtifactConfig(Frozen):
    """Which weights ship."""

    select: Literal["last", "best_health"] = Field(
        "last", description="best_health: of the look whose embeddings have the highest effective rank (RankMe)"
    )


class DebugConfig(Frozen):
    """What helps to find out what happened."""

    log_samples: bool = Field(False, description="write which samples each step saw to out/samples/")


class LogConfig(Frozen):
    """What is written while training."""

    every_steps: int = Field(10, ge=1, description="optimiser steps between log lines")
    tensorboard: bool = Field(True, description="also write TensorBoard event files")


class PretrainConfig(Frozen):
    """A pretraining run."""

    source: SourceConfig
    out: str = Field(
        min_length=1, description="run directory: a path or s3:// prefix; new, or holding the same experiment"
    )
    method: SerializeAsAny[MethodConfig]
    encoder: EncoderConfig = EncoderConfig()
    views: Views
    clip: ClipConfig = ClipConfig()
    optim: OptimConfig = OptimConfig()
    num_steps: int | None = Field(None, ge=1, description="optimiser steps; exactly one of num_steps and num_epochs")
    num_epochs: float | None = Field(
        None, gt=0, description="passes: steps = num_epochs * samples // global_batch_size"
    )
    global_batch_size: int = Field(256, ge=1, description="samples of one optimiser step, over all workers")
    accumulate: int = Field(
        1, ge=1, description="micro-batches per step and worker; only for losses that are a sample mean"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="initial weights, order of samples and every draw")
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="autocast; auto: bfloat16 on GPUs")
    deterministic: bool = Field(
        False, description="the same losses to the bit on the same hardware, workers and threads; slower"
    )
    cluster: ClusterConfig = ClusterConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    health: HealthConfig = HealthConfig()
    artifact: ArtifactConfig = ArtifactConfig()
    log: LogConfig = LogConfig()
    debug: DebugConfig = DebugConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.num_steps is None) == (self.num_epochs is None):
            given = "both" if self.num_steps else "neither"
            raise ValueError(f"give exactly one of num_steps and num_epochs, got {given}")
        self._check_shares()
        if self.accumulate > 1 and not METHODS[self.method.name].accumulates:
            raise ValueError(
                f"accumulate {self.accumulate} would change the objective of {self.method.name}, whose samples meet "
                "in the loss: use accumulate=1 with more workers or a smaller global_batch_size"
            )
        return self

    def _check_shares(self) -> None:
        sizes = range(self.cluster.min_workers, self.cluster.max_workers + 1)
        for share in (workers * self.accumulate for workers in sizes):
            if self.global_batch_size % share:
                whole = math.lcm(*(workers * self.accumulate for workers in sizes))
                raise ValueError(
                    f"global_batch_size {self.global_batch_size} does not divide among cluster.num_workers "
                    f"{share // self.accumulate} x accumulate {self.accumulate}: "
                    f"take {max(1, round(self.global_batch_size / whole)) * whole}, for instance"
                )

    def steps(self, plan: Plan) -> int:
        """Optimiser steps of the whole run over the epochs of a plan."""
        if self.num_steps is not None:
            return self.num_steps
        assert self.num_epochs is not None
        return max(1, plan.positions(self.num_epochs) // self.global_batch_size)

    def experiment(self) -> dict[str, Any]:
        """What makes two runs the same experiment: dotted keys to values, without cluster, placement, or bounds."""
        whole = self.model_dump(mode="json")
        for how in ("placement", "compile"):
            whole["views"].pop(how)
        whole["method"].pop("max_rows", None)  # a bank must be able to grow with its corpus
        whole["source"] = {"uri": whole["source"]["uri"]}
        names = ("method", "encoder", "views", "clip", "optim", "seed", "global_batch_size", "source")
        return dict(_flatten({name: whole[name] for name in names}))

    def fingerprint(self) -> str:
        """Short hash of the experiment."""
        return hashlib.sha256(json.dumps(self.experiment(), sort_keys=True).encode()).hexdigest()[:16]


def _flatten(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    leaves: list[tuple[str, Any]] = []
    for key, value in tree.items():
        leaves += _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return leaves


@cache
def _pretrain_class(method: str) -> type[PretrainConfig]:
    kind = METHODS[method].Config
    return create_model("PretrainConfig", __base__=PretrainConfig, method=(kind, Field(default_factory=kind)))


def complete_pretrain(values: dict[str, Any]) -> tuple[type[PretrainConfig], dict[str, Any]]:
    """Choose the configuration class of `method.name` and fill in the views of the method's paper for `views.size`.

    Raises:
        InputError: no such method.
    """
    method = values.get("method") or {}
    if not isinstance(method, dict):
        raise InputError(f"method {method} must hold keys: did you mean method.name={method}")
    name = method.get("name", "simclr")
    if name not in METHODS:
        raise InputError(f"method.name {name} is unknown: choose one of {', '.join(METHODS)}")
    views = values.get("views") or {}
    size = views.get("size", 224)
    if isinstance(size, int) and size >= 8:
        views = _overlay(METHODS[name].default_views(size).model_dump(mode="json"), views)
    return _pretrain_class(name), {**values, "method": {"name": name, **method}, "views": views}


def _overlay(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """Lay `top` over `base`, dictionaries merged key by key."""
    merged = dict(base)
    for key, value in top.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _overlay(base[key], value) if both else value
    return merged


def load_pretrain(values: dict[str, Any]) -> PretrainConfig:
    """Rebuild the configuration that `model_dump(mode="json")` gave, in another process or from a run directory."""
    kind, complete = complete_pretrain(values)
    return kind.model_validate(complete)


def load_artifact(uri: str) -> Artifact:
    """Load the artifact that a job was given.

    Raises:
        InputError: there is none, or it is damaged.
    """
    try:
        return artifact.load(uri)
    except (ValueError, OSError) as error:
        raise InputError(f"artifact {uri} cannot be loaded: {str(error).splitlines()[0]}") from None
