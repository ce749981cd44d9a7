"""Configuration of an adaptation that trains."""

from itertools import product
from typing import Any, ClassVar, Literal

from pydantic import Field

from augment.frozen import Frozen, other_of
from augment.recipe import ColorJitter, CropGroup
from jobs.adaptation.label_sections import LabelledJobConfig
from jobs.setup.failures import InputError
from jobs.setup.sections import ClusterConfig, Decays, PerVideoConfig, Rates
from jobs.tracking.log_config import LogConfig
from jobs.training.run_config import PretrainConfig, load_pretrain
from jobs.training.run_sections import CheckpointConfig
from models.artifact import Artifact
from models.optim import OptimConfig
from models.starting.continuation import StartConfig
from models.supervised.detect import DetectConfig
from models.supervised.finetune import FinetuneConfig
from models.supervised.head import HeadConfig
from models.supervised.mixing import MixingConfig
from models.supervised.segment import SegmentConfig
from models.supervised.several_heads import HeadSetting, SeveralHeadsConfig
from models.supervised.supervised import GROUP, Learning, LearningConfig, SupervisedConfig
from pipelines.labels.labelled_data import LabelledData

_NEEDS = {
    "finetune": ("class", "classes"),
    "attentive": ("class", "classes"),
    "segment": ("mask",),
    "detect": ("boxes",),
}
_GIVE = {
    "class": "a folder per class, or a table of uri,label",
    "mask": "masks.uri, a folder of PNG masks beside the images",
    "boxes": "boxes.uri, a COCO file of the images",
}
_COLOUR = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, p=0.8)
_LR_SCALES = (0.3, 1.0, 3.0)
_WEIGHT_DECAYS = (0.05, 0.4)
# Of a head of pixels alone: 0.0125 at a batch of 64, where of 5e-4 to 0.1 the head did best on
# camvid's streets over random encoders (mIoU .24 to .29 in 172 steps; .16 to .20 at 5e-4).
_PIXELS_LR = 0.05
# Of the encoder too: 2.5e-3 at a batch of 64. In 30 passes over some hundred images top-1 was .250
# (.141 at 5e-4) for SimCLR on Caltech-101, .650 (.604) for SimCLR and .521 (.492) for MAE on MRI.
_FINETUNE_LR = 1e-2


class TrainedProbeConfig(LearningConfig, MixingConfig):
    """A head that is trained with the encoder, or on it."""

    name: Literal["finetune", "attentive", "segment", "detect"] = Field(
        description=(
            "finetune: the encoder learns too; attentive: attention over a frozen encoder's places;"
            " segment: the class of each pixel; detect: boxes around objects"
        )
    )
    trained: Learning | None = Field(
        None,
        description=(
            "what learns beside the head: all, the last blocks, low-rank updates (lora), or nothing"
            " (head); null: all of finetune, nothing of the others"
        ),
    )
    width: int | None = Field(
        None,
        ge=8,
        description=(
            "segment: channels of a small convolutional head; null: linear. detect: channels of"
            " the detector; null: 128"
        ),
    )
    lr_scales: Rates | None = Field(
        None,
        description=(
            "attentive: a head learns at each of these times optim.lr, all at once, and the best"
            " on validation ships; null: 0.3, 1 and 3"
        ),
    )
    weight_decays: Decays | None = Field(
        None, description="attentive: with each of these weight decays; null: 0.05 and 0.4"
    )
    baseline: bool = Field(True, description="train the same from random weights beside it")

    def what_learns(self) -> Learning:
        """Return what learns beside the head."""
        return self.trained or ("all" if self.name == "finetune" else "head")

    @property
    def settings(self) -> tuple[HeadSetting, ...]:
        """Return by what heads learn side by side; nothing where one head learns by `optim`."""
        if self.name != "attentive" or self.what_learns() != "head":
            return ()
        both = product(self.lr_scales or _LR_SCALES, self.weight_decays or _WEIGHT_DECAYS)
        return tuple(HeadSetting(lr_scale=scale, weight_decay=decay) for scale, decay in both)

    def idle(self) -> dict[str, str]:
        """Return what another probe, or another choice of what learns, has no use for."""
        idle = self.unused_by(self.what_learns())
        if self.name not in ("segment", "detect"):
            idle["width"] = "name"
        if self.name != "finetune":
            idle |= dict.fromkeys(MixingConfig.model_fields, "name")
        if not self.settings:
            other = "trained" if self.name == "attentive" else "name"
            idle |= dict.fromkeys(("lr_scales", "weight_decays"), other)
        return idle

    def method(self, data: LabelledData) -> SupervisedConfig:
        """Return the objective for some labels."""
        learning = {name: getattr(self, name) for name in LearningConfig.model_fields}
        learning["trained"] = self.what_learns()
        forms: dict[str, Literal["linear", "attentive", "dense", "boxes"]] = {
            "finetune": "linear",
            "attentive": "attentive",
            "segment": "dense",
            "detect": "boxes",
        }
        head = HeadConfig(
            name=forms[self.name],
            task=data.task,
            classes=data.classes,
            values=() if data.values == tuple(range(data.num_classes)) else data.values,
            width=self.width,
            copies=max(1, len(self.settings)),
        )
        if self.name == "segment":
            return SegmentConfig(head=head, **learning)
        if self.name == "detect":
            return DetectConfig(head=head, **learning)
        if head.copies > 1:
            return SeveralHeadsConfig(head=head, settings=self.settings, **learning)
        mixing = {name: getattr(self, name) for name in MixingConfig.model_fields}
        if self.name != "finetune":
            mixing["label_smoothing"] = 0.0
        return FinetuneConfig(head=head, **mixing, **learning)


class AdaptOptimConfig(OptimConfig):
    """How weights are updated. The defaults suit small labelled sets (arXiv:2111.06377, A.1)."""

    name: Literal["sgd", "lars", "adamw"] = Field(default="adamw", description="optimiser")
    lr: float = Field(default=2e-3, gt=0, description="peak learning rate at a global batch of 256")
    weight_decay: float = Field(
        default=0.05,
        ge=0,
        description="weight decay, for adamw decoupled; none on biases and norms",
    )
    warmup_fraction: float = Field(
        default=0.1, ge=0, le=1, description="linear warm-up, as a fraction of num_steps"
    )


class AdaptStartConfig(StartConfig):
    """How gently the artifact's weights are changed."""

    layer_decay: float = Field(
        default=0.75,
        gt=0,
        le=1,
        description=(
            "each layer of the encoder learns at this times the rate of the one above it, the"
            " highest at this times the head's"
        ),
    )


class TrainingViewsConfig(Frozen):
    """What the images of training look like."""

    size: int | None = Field(None, ge=8, description="side of the crops, px; null: the artifact's")
    scale: tuple[float, float] = Field(
        (0.35, 1.0),
        description=(
            "range of a crop's share of the image's area; where pixels or boxes are told, of the"
            " area of the square that holds the image whole"
        ),
    )
    flip: float = Field(0.5, ge=0, le=1, description="probability of a mirror image")
    colour: bool = Field(False, description="change brightness, contrast, saturation and hue")


class TrainedAdaptConfig(LabelledJobConfig):
    """An adaptation that trains."""

    example: ClassVar[str] = (
        "artifact=runs/a train.uri=labelled/train test.uri=labelled/test probe.name=finetune"
        " out=runs/a-tuned"
    )
    most_used: ClassVar[tuple[str, ...]] = (
        "artifact",
        "train.uri",
        "test.uri",
        "out",
        "probe.name",
        "compare",
        "probe.trained",
        "num_epochs",
        "optim.lr",
        "global_batch_size",
        "cluster.num_workers",
        "cluster.use_gpu",
    )

    artifact: str = Field(
        min_length=1,
        description="the encoder: a path or s3:// prefix, or NAME@ALIAS in a registry",
    )
    compare: str | None = Field(
        None,
        min_length=1,
        description="another artifact, from which the same is trained and judged beside it",
    )
    out: str = Field(
        min_length=1, description="folder of the run and its artifact; new, or holding the same"
    )
    probe: TrainedProbeConfig
    views: TrainingViewsConfig = TrainingViewsConfig()
    optim: AdaptOptimConfig = AdaptOptimConfig()
    start: AdaptStartConfig = AdaptStartConfig()
    num_epochs: float | None = Field(None, gt=0, description="passes over train; null: 30")
    num_steps: int | None = Field(None, ge=1, description="optimiser steps, in place of num_epochs")
    global_batch_size: int = Field(64, ge=1, description="samples of a step, over all workers")
    seed: int = Field(0, ge=0, lt=2**31, description="of the head, the order and every draw")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="autocast; auto: bfloat16 on GPUs"
    )
    clip: PerVideoConfig = PerVideoConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()
    cluster: ClusterConfig = ClusterConfig()

    @classmethod
    def voided_by(cls, key: str, values: dict[str, Any]) -> tuple[str, ...]:
        """Return the other length of the run."""
        return other_of(("num_steps", "num_epochs"), key, values)

    def idle(self) -> dict[str, str]:
        """Return what heads with weight decays of their own, or weights that stay, have no use
        for."""
        idle = {"optim.weight_decay": "probe.name"} if self.probe.settings else {}
        if not self._starts_gently():
            idle |= {f"start.{name}": "probe.trained" for name in AdaptStartConfig.model_fields}
        return idle

    def _starts_gently(self) -> bool:
        """Tell whether weights of the artifact itself are changed."""
        return self.probe.what_learns() in ("all", "blocks")

    def _optim(self) -> OptimConfig:
        """Return how weights are updated: of one head beside no other by its own setting."""
        if len(self.probe.settings) != 1:
            return self.optim
        [own] = self.probe.settings
        update = {"lr": self.optim.lr * own.lr_scale, "weight_decay": own.weight_decay}
        return self.optim.model_copy(update=update)

    def steps(self, num_train: int) -> int:
        """Return the optimiser steps over so many samples."""
        if self.num_steps is not None:
            return self.num_steps
        return max(1, int((self.num_epochs or 30) * num_train // self.global_batch_size))

    def run_of(
        self, start: Artifact, data: LabelledData, *, num_steps: int, weights: str | None, out: str
    ) -> PretrainConfig:
        """Return the training run.

        Args:
            start: The artifact whose encoder is adapted.
            data: The labelled samples.
            num_steps: Optimiser steps.
            weights: What the encoder starts from; None: random weights.
            out: The run directory.
        """
        preprocess = {"mean": start.mean.flatten().tolist(), "std": start.std.flatten().tolist()}
        group = CropGroup(
            scale=self.views.scale,
            ratio=(1.0, 1.0) if data.task in ("mask", "boxes") else (3 / 4, 4 / 3),
            flip=self.views.flip,
            color_jitter=_COLOUR if self.views.colour else None,
        )
        views = {"size": self.views.size or start.image_size, "groups": {GROUP: group}}
        values = {
            "source": {
                "uri": self.train.uri,
                "value_range": start.of_images.value_range,
                "bands": start.of_images.bands,
                "max_bad_fraction": 1.0,
            },
            "out": out,
            "method": self.probe.method(data).model_dump(mode="json"),
            "encoder": {**start.config["encoder"], "weights": weights},
            "views": {**views, **preprocess, "groups": {GROUP: group.model_dump(mode="json")}},
            "clip": {"per_video": self.clip.per_video, **_taken(start)},
            "num_steps": num_steps,
            **{name: getattr(self, name) for name in ("seed", "precision", "global_batch_size")},
        }
        if weights is not None and self._starts_gently():
            values["start"] = self.start.model_dump(mode="json")
        values["optim"] = self._optim().model_dump(mode="json")
        for name in ("cluster", "checkpoint", "log"):
            values[name] = getattr(self, name).model_dump(mode="json")
        return load_pretrain(values)


def with_defaults(values: dict[str, Any]) -> dict[str, Any]:
    """Give an adaptation's values the defaults that depend on others of them."""
    probe = values["probe"]
    lr = _FINETUNE_LR if probe["name"] == "finetune" else None
    if probe["name"] == "segment" and probe.get("trained") in (None, "head"):
        lr = _PIXELS_LR
    return values | {"optim": {"lr": lr} | (values.get("optim") or {})} if lr else values


def _taken(start: Artifact) -> dict[str, Any]:
    """Return which frames make a clip for an encoder of clips; nothing of one of images."""
    if start.num_frames is None:
        return {}
    taken = start.of_images
    spacing = {"fps": taken.fps} if taken.fps else {"frame_stride": taken.frame_stride}
    return {"num_frames": taken.num_frames, **spacing}


def check_task(config: TrainedAdaptConfig, data: LabelledData) -> None:
    """Refuse labels that the probe cannot learn from.

    Raises:
        InputError: with what it needs.
    """
    needs = _NEEDS[config.probe.name]
    if data.task not in needs:
        raise InputError(
            f"probe.name {config.probe.name} learns from {needs[0]} labels, and train.uri"
            f" {config.train.uri} gives {data.task}: give {_GIVE[needs[0]]}"
        )
