"""Configuration sections that jobs share, and the configuration of a pretraining run."""

import hashlib
import json
import math
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar, Literal, Self, TypeVar

from pydantic import Field, SerializeAsAny, ValidationError, create_model, model_validator

from augment.frozen import other_of
from augment.recipe import AnyViews, Placement, Views
from augment.sound.sound_recipe import SoundViews
from augment.texts.text_views import TextViews
from jobs.corpora.paired_source import PairedSource
from jobs.setup.command_line import in_words
from jobs.setup.failures import InputError
from jobs.setup.sections import ClusterConfig, JobConfig
from jobs.tracking.log_config import LogConfig
from jobs.training.clip_config import CLIP_BEFORE, ClipConfig
from jobs.training.run_sections import CheckpointConfig, DebugConfig, HealthConfig, TrainConfig
from models.encoders.clips.time_settings import check_frames
from models.encoders.factory import EncoderConfig
from models.encoders.hub_names import weights_left_out
from models.encoders.texts.text_settings import TextSettings
from models.method import Media, Method, MethodConfig, unknown_group
from models.optim import AdversarialOptimConfig, OptimConfig
from models.registry import DEFAULT, METHODS, SUPERVISED, build_method, method_class
from models.starting.continuation import StartConfig
from pipelines.corpus.file_kinds import Medium, medium_of
from pipelines.storage import uris
from pipelines.stream.plan import Plan

Run = TypeVar("Run", bound="PretrainConfig")


class PretrainConfig(JobConfig):
    """A pretraining run."""

    example: ClassVar[str] = "simclr_small source.uri=photos out=runs/a num_epochs=20"
    most_used: ClassVar[tuple[str, ...]] = (
        "source.uri",
        "out",
        "num_epochs",
        "num_steps",
        "global_batch_size",
        "method.name",
        "encoder.name",
        "views.size",
        "optim.name",
        "optim.lr",
        "cluster.num_workers",
        "cluster.use_gpu",
    )

    source: PairedSource
    out: str = Field(
        min_length=1,
        description="run directory: a path or s3:// prefix; new, or holding the same experiment",
    )
    method: SerializeAsAny[MethodConfig]
    encoder: EncoderConfig = EncoderConfig()
    views: SerializeAsAny[AnyViews]
    clip: ClipConfig = ClipConfig()
    optim: OptimConfig = OptimConfig()
    start: StartConfig = StartConfig()
    num_steps: int | None = Field(
        None, ge=1, description="optimiser steps; exactly one of num_steps and num_epochs"
    )
    num_epochs: float | None = Field(
        None, gt=0, description="passes: steps = num_epochs * samples // global_batch_size"
    )
    global_batch_size: int = Field(
        256, ge=1, description="samples of one optimiser step, over all workers"
    )
    accumulate: int = Field(
        1,
        ge=1,
        description="micro-batches per step and worker; only for losses that are a sample mean",
    )
    seed: int = Field(
        0, ge=0, lt=2**31, description="initial weights, order of samples and every draw"
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description=(
            "autocast; auto: bfloat16 on GPUs; float16, for GPUs without that, scales the loss"
        ),
    )
    train: TrainConfig = TrainConfig()
    deterministic: bool = Field(
        False,
        description="the same losses to the bit on the same hardware, workers and threads; slower",
    )
    cluster: ClusterConfig = ClusterConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    health: HealthConfig = HealthConfig()
    log: LogConfig = LogConfig()
    debug: DebugConfig = DebugConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.num_steps is None) == (self.num_epochs is None):
            given = "both" if self.num_steps else "neither"
            raise ValueError(f"give exactly one of num_steps and num_epochs, got {given}")
        self._check_shares()
        self._check_clips()
        if self.method.keeps_weights and self.encoder.weights is None:
            raise ValueError(
                f"{self.method.keeps_weights} would keep a random encoder: give encoder.weights"
            )
        if self.accumulate > 1 and not method_class(self.method.name).accumulates:
            raise ValueError(
                f"accumulate {self.accumulate} would change the objective of {self.method.name},"
                " whose samples meet in the loss: use accumulate=1 with more workers or a smaller"
                " global_batch_size"
            )
        return self

    @classmethod
    def check_given(cls, values: dict[str, Any]) -> None:
        """Refuse groups of views that the method does not eat, which earlier runs may hold, and a
        method that learns from labels."""
        if (name := values["method"]["name"]) in SUPERVISED:
            raise InputError(
                f"method.name {name} learns from labels: python -m jobs.adapt trains with them"
            )
        method = method_class(values["method"]["name"])
        groups = values["views"].get("groups")
        for group in groups if isinstance(groups, dict) else ():
            if group not in method.view_groups:
                raise InputError(unknown_group(group, method.view_groups, values["method"]["name"]))

    @classmethod
    def note(cls, values: dict[str, Any]) -> str | None:
        """Say that weights which the encoder's name asks for are not loaded."""
        encoder = values.get("encoder") or {}
        return None if encoder.get("weights") else weights_left_out(encoder.get("name", ""))

    @classmethod
    def voided_by(cls, key: str, values: dict[str, Any]) -> tuple[str, ...]:
        """Return the other length of the run, or what the recipe's method has and this one has
        not."""
        if key != "method.name":
            return other_of(("num_steps", "num_epochs"), key, values)
        method = method_class(values["method"]["name"])
        keys = values["method"].keys() - method.Config.model_fields.keys()
        groups = (values.get("views") or {}).get("groups") or {}
        unknown = groups.keys() - method.view_groups.keys()
        void = [f"method.{name}" for name in keys] + [f"views.groups.{name}" for name in unknown]
        if values.get("accumulate", 1) != 1 and not method.accumulates:
            void.append("accumulate")
        if not method.adversarial:
            void.append("optim.discriminator")
        return tuple(void)

    def idle(self) -> dict[str, str]:
        """Return what the place where colours change, or a random start, has no use for."""
        placement = self.placement
        unused = list[str]()
        if placement in ("worker", "decode"):
            unused += ["cluster.view_actors", "cluster.gpus_per_view_actor"]
        if placement == "decode" and isinstance(self.views, Views):
            unused.append("views.compile")
        nothing = {} if self.encoder.weights else {"start.pull": "encoder.weights"}
        return dict.fromkeys(unused, self._placed_by) | nothing

    @property
    def _placed_by(self) -> str:
        return "views.placement" if isinstance(self.views, Views) else "method.name"

    def _check_shares(self) -> None:
        sizes = range(self.cluster.min_workers, self.cluster.max_workers + 1)
        for share in (workers * self.accumulate for workers in sizes):
            if self.global_batch_size % share:
                whole = math.lcm(*(workers * self.accumulate for workers in sizes))
                raise ValueError(
                    f"global_batch_size {self.global_batch_size} does not divide among"
                    f" cluster.num_workers {share // self.accumulate} x accumulate"
                    f" {self.accumulate}: take"
                    f" {max(1, round(self.global_batch_size / whole)) * whole}, for instance"
                )

    def _check_clips(self) -> None:
        """Refuse clips that the encoder cannot divide, or no row can hold."""
        encoder = self.encoder
        if self.num_frames is not None:
            check_frames(encoder.time, encoder.tubelet, self.num_frames)
            self.image_views.check_bytes(self.num_frames)

    def steps(self, plan: Plan) -> int:
        """Return the optimiser steps of the whole run over the epochs of a plan."""
        if self.num_steps is not None:
            return self.num_steps
        assert self.num_epochs is not None
        return max(1, plan.positions(self.num_epochs) // self.global_batch_size)

    @property
    def media(self) -> Media:
        """Return what one sample is to the method with its encoder."""
        media = method_class(self.method.name).media
        return self.encoder.media if media in ("image", "clip") else media

    @property
    def image_views(self) -> Views:
        """Return the views, of images or clips."""
        assert isinstance(self.views, Views)
        return self.views

    @property
    def placement(self) -> Placement:
        """Return where views are changed: of other media than pictures the worker does it."""
        return self.views.placement if isinstance(self.views, Views) else "worker"

    @property
    def medium(self) -> Medium:
        """Return what of its source is a sample."""
        return self.source.media or medium_of(self.media)

    @property
    def num_frames(self) -> int | None:
        """Return the frames of a sample; None where it is an image."""
        return self.clip.num_frames if self.media == "clip" else None

    def preprocess(self, tokenizer: str | None = None) -> dict[str, Any]:
        """Return how an artifact of the run wants its samples: the fields of `Preprocess`, of
        `SoundPreprocess`, or of `TextPreprocess`, with the run's tokenizer."""
        views = self.views
        if isinstance(views, TextViews):
            return {"image_size": views.size, "tokenizer": tokenizer}
        if isinstance(views, SoundViews):
            return {"image_size": views.size, "rate": views.rate, "std": views.std}
        assert isinstance(views, Views)
        sizes = {"image_size": views.size, "mean": views.mean, "std": views.std}
        return sizes | self.source.reading() | (self.clip.taking() if self.num_frames else {})

    def experiment(self) -> dict[str, Any]:
        """Return what makes two runs the same experiment, as dotted keys to values."""
        whole = self.model_dump(mode="json")
        for how in ("placement", "compile"):
            whole["views"].pop(how, None)
        whole["method"].pop("max_rows", None)  # a bank must be able to grow with its corpus
        encoder = whole["encoder"]
        del encoder["min_share"]  # judged once, before the first step
        _leave_out(encoder, _ENCODER_BEFORE)
        _leave_out(whole["method"], _METHOD_BEFORE)
        _leave_out(whole["clip"], CLIP_BEFORE)
        for optim in (whole["optim"], whole["optim"].get("discriminator", {})):
            _leave_out(optim, _OPTIM_BEFORE)
        whole["start"] = self.start.model_dump(mode="json", exclude_defaults=True)
        # With and without a slash at its end, a prefix is one source.
        whole["source"] = {
            "uri": whole["source"]["uri"].rstrip("/") or "/",
            **self.source.reading(),
            **self.source.pairing(),
        }
        names = (
            "method",
            "encoder",
            "views",
            "clip",
            "optim",
            "start",
            "seed",
            "global_batch_size",
            "source",
        )
        return dict(_flatten({name: whole[name] for name in names}))

    def fingerprint(self) -> str:
        """Return a short hash of the experiment."""
        return hashlib.sha256(json.dumps(self.experiment(), sort_keys=True).encode()).hexdigest()[
            :16
        ]


# What was so before it was a setting.
_ENCODER_BEFORE = {
    "pooling": "auto",
    "weights": None,
    "causal": None,
    "num_heads": None,
    "qkv_init": "joint",
    "drop_path": 0.0,
    "zero_init_residual": False,
    "patch_norm": False,
    "split": None,
    "keep_tokens": 1.0,
    "time": None,
    "tubelet": 2,
    "text": TextSettings().model_dump(mode="json"),
}
_METHOD_BEFORE = {"centring": "mean", "prototype_std": 1.0, "freeze_encoder": False}
_OPTIM_BEFORE = {
    "schedule": "cosine",
    "cooldown_fraction": 0.2,
    "clip_by": "all",
    "no_decay_lr_scale": 1.0,
}


def _leave_out(section: dict[str, Any], before: Mapping[str, Any]) -> None:
    """Leave out of a section what is as it was before one could set it."""
    for name, value in before.items():
        if name in section and section[name] == value:
            del section[name]


def _flatten(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    leaves: list[tuple[str, Any]] = []
    for key, value in tree.items():
        leaves += (
            _flatten(value, f"{prefix}{key}.")
            if isinstance(value, dict)
            else [(f"{prefix}{key}", value)]
        )
    return leaves


METHOD_HELP = (
    f"the objective: {', '.join(METHODS)}; --help with another method.name shows its keys and views"
)


@cache
def for_method(base: type[Run], name: str) -> type[Run]:
    """Make the configuration class of a run with a method's own keys.

    Args:
        base: Of what kind of run.
        name: The method.
    """
    kind = method_class(name)
    config = Field(default_factory=kind.Config, description=METHOD_HELP)
    fields: dict[str, Any] = {"method": (kind.Config, config), "views": (kind.views_kind, ...)}
    if kind.adversarial:
        fields["optim"] = (AdversarialOptimConfig, AdversarialOptimConfig())
    return create_model(base.__name__, __base__=base, **fields)


def complete_pretrain(values: dict[str, Any]) -> tuple[type[PretrainConfig], dict[str, Any]]:
    """Choose the configuration class of `method.name` and fill in the views of the method's paper.

    Raises:
        InputError: no such method.
    """
    method = values.get("method") or {}
    if not isinstance(method, dict):
        raise InputError(f"method {method} must hold keys: did you mean method.name={method}")
    name = method.get("name", DEFAULT)
    if name not in METHODS | SUPERVISED:
        raise InputError(f"method.name {name} is unknown: choose one of {', '.join(METHODS)}")
    views = values.get("views") or {}
    if not isinstance(views, dict):
        raise InputError(f"views {views} must hold keys: did you mean views.size={views}")
    kind = method_class(name).views_kind
    size = views.get("size", kind.default_size)
    if isinstance(size, int) and size >= kind.smallest:
        try:
            own = method_class(name).default_views(size)
        except ValidationError as error:
            raise InputError(f"views.size {size}: {in_words('', error.errors()[0])}") from None
        views = _overlay(own.model_dump(mode="json"), views)
    return for_method(PretrainConfig, name), {
        **values,
        "method": {"name": name, **method},
        "views": views,
    }


def build(config: PretrainConfig, *, start: bool = True) -> Method:
    """Build the method of a run as it is before its first step.

    Args:
        config: Of the run.
        start: Whether to read the weights that its encoder starts from, where there are some; not
            where others take their place.

    Raises:
        InputError: its encoder, views or settings do not suit it.
    """
    encoder = config.encoder if start else config.encoder.model_copy(update={"weights": None})
    if encoder.weights is not None:
        uris.filesystem(encoder.weights)  # models open URIs with plain fsspec: with this client
    try:
        return build_method(config.method, encoder, config.views, config.seed)
    except ValueError as error:
        raise InputError(str(error)) from None


def _overlay(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """Lay `top` over `base`, dictionaries merged key by key."""
    merged = dict(base)
    for key, value in top.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _overlay(base[key], value) if both else value
    return merged


def load_pretrain(values: dict[str, Any]) -> PretrainConfig:
    """Rebuild the configuration that `model_dump(mode="json")` gave, in another process or from a
    run directory."""
    kind, complete = complete_pretrain(values)
    return kind.model_validate(complete)
