"""DINO (Caron 2021, arXiv:2104.14294).

A student sees large and small crops and must give the distribution over prototypes that its
teacher, a moving average of itself, gives for the large ones. Two ways of collapsing are held in
balance: centring the teacher's outputs forbids one prototype for all, sharpening them forbids the
uniform distribution. Either alone collapses; early in training the last layer waits, as its first
gradients are noise.

The teacher is the better encoder throughout, so it is the one that ships.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from augment.presets import blur, byol_views, local_size
from augment.recipe import CropGroup, Views
from models import health
from models.blocks.ema import cosine_momentum, follow, frozen_copy
from models.blocks.heads import train_where
from models.blocks.multi_crop import check_crop_sizes, encode_by_size
from models.collectives import all_reduce_sum, global_mean
from models.encoders.encoder import Encoder
from models.encoders.factory import EncoderConfig
from models.losses import cross_view_entropy
from models.method import UNLIKE_VIEWS, Batch, Method, MethodConfig, ViewGroups

_LOCAL = "local_crops"


class DINOConfig(MethodConfig):
    """DINO's settings; the defaults are the paper's for ViT-S on ImageNet."""

    name: Literal["dino"] = "dino"
    num_prototypes: int = Field(
        default=65_536, ge=2, description="length K of the compared distributions"
    )
    student_temperature: float = Field(
        default=0.1, gt=0.0, description="divides the student's outputs"
    )
    teacher_temperature: float = Field(
        default=0.04,
        gt=0.0,
        description="divides the teacher's outputs after the warm-up; above 0.07 it collapses",
    )
    first_teacher_temperature: float = Field(
        default=0.04, gt=0.0, description="the same in the first step"
    )
    teacher_warmup_fraction: float = Field(
        default=0.3,
        ge=0.0,
        le=1.0,
        description="fraction of num_steps from the first temperature to the other",
    )
    center_momentum: float = Field(
        default=0.9, ge=0.0, lt=1.0, description="share of the centre kept in a step"
    )
    momentum: float = Field(
        default=0.996,
        ge=0.0,
        lt=1.0,
        description="share of the teacher kept in the first step; rises to 1",
    )
    freeze_fraction: float = Field(
        default=0.01,
        ge=0.0,
        le=1.0,
        description="the last layer waits for this first fraction of num_steps",
    )
    hidden_dim: int = Field(
        default=2048, ge=1, description="features of the head's two hidden layers"
    )
    bottleneck_dim: int = Field(default=256, ge=2, description="features in which prototypes live")

    def idle(self) -> dict[str, str]:
        """Return what a temperature that does not change has no use for."""
        if not self.teacher_warmup_fraction:
            return {"first_teacher_temperature": "teacher_warmup_fraction"}
        still = self.first_teacher_temperature == self.teacher_temperature
        return {"teacher_warmup_fraction": "first_teacher_temperature"} if still else {}


class DINOHead(nn.Module):
    """Three layers with GELU, and prototypes of unit length (the authors' weight norm with its
    scale fixed at 1).

    Args:
        embed_dim: Features of the encoder.
        config: Widths and number of prototypes.
    """

    def __init__(self, embed_dim: int, config: DINOConfig) -> None:
        super().__init__()
        hidden = config.hidden_dim
        self.layers = nn.Sequential(
            nn.Linear(embed_dim, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, config.bottleneck_dim),
        )
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.prototypes = nn.Parameter(torch.randn(config.num_prototypes, config.bottleneck_dim))

    def forward(self, embedding: Tensor, prototypes_train: Tensor) -> Tensor:
        """Compare embeddings (..., D) with the prototypes, which learn where the scalar is true;
        (..., K) float32."""
        bottleneck = functional.normalize(self.layers(embedding).float(), dim=-1)
        prototypes = functional.normalize(train_where(self.prototypes, prototypes_train), dim=1)
        # bfloat16's steps of 0.004 are 0.1 after sharpening
        with torch.autocast(embedding.device.type, enabled=False):
            return bottleneck @ prototypes.T


class DINO(Method):
    """A student and a teacher, each an encoder and a head, and the cross entropy of their outputs
    between views."""

    Config: ClassVar[type[MethodConfig]] = DINOConfig
    small: ClassVar[MethodConfig] = DINOConfig(
        hidden_dim=64, bottleneck_dim=16, num_prototypes=20, center_momentum=0.99
    )
    view_groups: ClassVar[ViewGroups] = {**dict.fromkeys(UNLIKE_VIEWS, 1), _LOCAL: None}
    accumulates: ClassVar[bool] = False
    center: Tensor

    @staticmethod
    def default_views(size: int) -> Views:
        """Make the views of section 3.2: BYOL's two, cut large, and eight small ones,
        `local_crops`.

        Args:
            size: Side of the two large views, px; the small ones have `local_size`.
        """
        cut = {"scale": (0.4, 1.0)}
        large = {
            name: group.model_copy(update=cut) for name, group in byol_views(size).groups.items()
        }
        colours = large[UNLIKE_VIEWS[0]]
        small = CropGroup(
            count=8,
            size=local_size(size),
            scale=(0.05, 0.4),
            color_jitter=colours.color_jitter,
            greyscale=colours.greyscale,
            blur=blur(size),
        )
        return Views(size=size, groups={**large, _LOCAL: small})

    def __init__(
        self, config: DINOConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        check_crop_sizes(views, self.encoder)
        self.settings = config
        self.groups = [name for name in self.view_groups if name in views.groups]
        self.student_encoder = self.encoder
        self.encoder = frozen_copy(self.student_encoder)
        self.student_head = DINOHead(self.encoder.embed_dim, config)
        self.teacher_head = frozen_copy(self.student_head)
        self.register_buffer("center", torch.zeros(config.num_prototypes))
        # the step's sum of teacher outputs over all workers, and how many
        self._seen: Tensor | None = None

    @property
    def trained_encoder(self) -> Encoder:
        """Return the student."""
        return self.student_encoder

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Predict the teacher's outputs for each large crop from every other crop.

        Returns:
            loss: Cross entropy, nats, mean over pairs of views and the global batch's valid
                samples.
            prototype_entropy: Of this worker's mean teacher output, nats; 0 or log K on collapse.
            embedding: The teacher's, for the first large crop (B, D); rows of invalid samples
                included.
        """
        config = self.settings
        valid = batch["valid"]
        crops = [batch["views"][name] for name in self.groups]
        train = self.progress >= config.freeze_fraction
        outputs = self.student_head(encode_by_size(self.student_encoder, crops), train)  # (V, B, K)
        with torch.no_grad():
            embeddings = encode_by_size(self.encoder, crops[: len(UNLIKE_VIEWS)])  # (2, B, D)
            teacher_outputs = self.teacher_head(embeddings, train)  # (2, B, K)
            targets = ((teacher_outputs - self.center) / self._teacher_temperature()).softmax(-1)
            mine = teacher_outputs.where(valid.unsqueeze(1), 0.0).sum((0, 1))  # (K,)
            self._seen = all_reduce_sum(
                torch.cat([mine, len(teacher_outputs) * valid.sum(0, keepdim=True)])
            )
        with torch.autocast(outputs.device.type, enabled=False):
            per_sample = cross_view_entropy(
                targets, (outputs / config.student_temperature).log_softmax(-1)
            )
        return {
            "loss": global_mean(per_sample, valid),
            "prototype_entropy": health.prototype_entropy(
                targets.where(valid.unsqueeze(1), 0.0).flatten(0, 1)
            ),
            "embedding": embeddings[0],
        }

    def _teacher_temperature(self) -> Tensor:
        """Follow a straight line from the first temperature to the last over the warm-up."""
        config = self.settings
        warm = (self.progress / max(config.teacher_warmup_fraction, 1e-9)).clamp(max=1)
        return (
            config.first_teacher_temperature
            + (config.teacher_temperature - config.first_teacher_temperature) * warm
        )

    @torch.no_grad()
    def after_step(self, step: int, num_steps: int) -> None:
        """Move the centre towards the step's mean output, and the teacher."""
        super().after_step(step, num_steps)
        if self._seen is not None:
            total = self._seen[:-1]
            count = self._seen[-1]
            share = (1 - self.settings.center_momentum) * (count > 0)
            self.center.lerp_(total / count.clamp(min=1), share)
            self._seen = None
        momentum = cosine_momentum(step, num_steps, self.settings.momentum)
        follow(self.encoder, self.student_encoder, momentum)
        follow(self.teacher_head, self.student_head, momentum)
