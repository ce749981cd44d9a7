"""What every objective with labels shares: an encoder, a head on it, and how much of both learns.

How much of the encoder learns is a setting: all of it, its last blocks, low-rank updates of its
linear layers, or nothing but the head. A running average of the weights ships where it is kept.
"""

from typing import ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from augment.frozen import Frozen
from augment.recipe import CropGroup, Views
from models.blocks import ema
from models.encoders.depth import layers_of
from models.encoders.encoder import Encoder
from models.encoders.factory import EncoderConfig, build_encoder
from models.method import Method, MethodConfig, Shipped, ViewGroups
from models.supervised import lora
from models.supervised.head import Head, HeadConfig, build_head

GROUP = "images"


Learning = Literal["all", "blocks", "lora", "head"]
"""What learns beside the head: all, the last blocks, low-rank updates, or nothing."""


class LearningConfig(Frozen):
    """How much of an encoder learns."""

    blocks: int = Field(2, ge=1, description="trained=blocks: how many, from the end")
    lora_rank: int = Field(8, ge=1, description="trained=lora: rank of the updates")
    lora_alpha: float = Field(16, gt=0, description="trained=lora: their scale, times the rank")
    ema_decay: float = Field(
        0.0, ge=0, lt=1, description="of the running average of weights that ships; 0: none"
    )

    @staticmethod
    def unused_by(trained: Learning) -> dict[str, str]:
        """Return what another choice of what learns has no use for."""
        own = {"blocks": ("blocks",), "lora": ("lora_rank", "lora_alpha")}.get(trained, ())
        return dict.fromkeys({"blocks", "lora_rank", "lora_alpha"} - set(own), "trained")


class SupervisedConfig(LearningConfig, MethodConfig):
    """Settings of every objective with labels."""

    head: HeadConfig = Field(description="what is told of an image")
    trained: Learning = Field(
        "all", description="what learns beside the head: all, the last blocks, low-rank updates"
    )

    def idle(self) -> dict[str, str]:
        """Return what another choice of what learns has no use for."""
        return self.unused_by(self.trained)


class Supervised(Method):
    """An encoder and a head; subclasses say what is wrong with the head's scores.

    Attributes:
        head: From the encoder's features to scores.
        average: Running average of encoder and head, where one is kept.
    """

    view_groups: ClassVar[ViewGroups] = {GROUP: 1}
    accumulates: ClassVar[bool] = True
    config: SupervisedConfig

    @staticmethod
    def default_views(size: int) -> Views:
        """Make the crops of supervised training (arXiv:1409.4842), mild for small sets."""
        return Views(size=size, groups={GROUP: CropGroup(scale=(0.35, 1.0))})

    def __init__(
        self, config: MethodConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        assert isinstance(config, SupervisedConfig)
        self.config = config
        self._encoder_config = encoder_config
        self.head: Head = build_head(config.head, self.encoder)
        self._choose_what_learns()
        self.average: nn.ModuleList | None = None
        if config.ema_decay:
            self.average = ema.frozen_copy(self._learning())
        self.train()

    def _learning(self) -> nn.ModuleList:
        return nn.ModuleList([self.encoder, self.head])

    def _choose_what_learns(self) -> None:
        config = self.config
        if config.trained == "all":
            return
        if config.trained == "lora":
            if not lora.adapt_linear_layers(self.encoder, config.lora_rank, config.lora_alpha):
                raise ValueError(
                    f"probe.trained=lora: encoder.name={self.encoder.name} has no linear layer"
                    f" wider than probe.lora_rank={config.lora_rank}: take probe.trained=blocks"
                )
            return
        self.encoder.requires_grad_(False)
        if config.trained == "blocks":
            unfreeze_last_blocks(self.encoder, config.blocks)

    def train(self, mode: bool = True) -> "Supervised":
        """Set the mode; frozen batch norm keeps its statistics."""
        super().train(mode)
        if self.config.trained == "head":
            self.encoder.eval()
        for part in self.modules():
            if isinstance(part, _BatchNorm) and not _learns(part):
                part.eval()
        if self.average is not None:
            self.average.eval()
        return self

    def after_step(self, step: int, num_steps: int) -> None:
        """Move the running average of the weights."""
        super().after_step(step, num_steps)
        if self.average is None:
            return
        # an average over more steps than were made would be one of random weights
        decay = min(self.config.ema_decay, (1 + step) / (10 + step))
        ema.follow(self.average, self._learning(), decay)
        _copy_buffers(self.average, self._learning())

    def ships(self) -> Shipped:
        """Return the encoder and the head of the artifact, low-rank updates merged."""
        parts = self._learning() if self.average is None else self.average
        encoder, head = cast(tuple[Encoder, Head], tuple(parts))
        if self.config.trained == "lora":
            merged = build_encoder(self._encoder_config, self.views.size)
            merged.load_state_dict(lora.merged_state(encoder))
            encoder = merged.eval()
        return Shipped(encoder, head)


def check_upright(views: Views, targets: str) -> None:
    """Refuse views that turn images, where their targets are not turned with them.

    Raises:
        ValueError: with the setting.
    """
    for name in ("quarter_turns", "rotate", "affine"):
        if getattr(views.groups[GROUP], name) is not None:
            raise ValueError(
                f"views.groups.{GROUP}.{name} would turn images without their {targets}"
            )


def flat(features: Tensor) -> Tensor:
    """Average features over places, if they have any: (B, D)."""
    return features if features.ndim == 2 else features.flatten(2).mean(2)


def unfreeze_last_blocks(encoder: Encoder, count: int) -> None:
    """Let the last blocks of a frozen network learn, and all that follows them.

    A block is a layer of `depth.layers_of` behind the first one; a norm at the end is none.

    Raises:
        ValueError: it has fewer blocks.
    """
    layers = layers_of(encoder)
    parameters = dict(encoder.named_parameters())
    blocks = {layer for name, layer in layers.items() if layer and parameters[name].ndim > 1}
    if len(blocks) < count:
        raise ValueError(
            f"probe.blocks={count}: encoder.name={encoder.name} has {len(blocks)} blocks; take"
            " fewer, or probe.trained=all"
        )
    first = sorted(blocks)[-count]
    for name, parameter in parameters.items():
        parameter.requires_grad_(layers.get(name, first) >= first)


def _learns(part: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in part.parameters(recurse=False))


@torch.no_grad()
def _copy_buffers(target: nn.Module, source: nn.Module) -> None:
    for mine, theirs in zip(target.buffers(), source.buffers(), strict=True):
        mine.copy_(theirs)
