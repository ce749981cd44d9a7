"""What DINO, iBOT and DINOv2 share: a student, a teacher that is its moving average, and the
distributions over prototypes that the two give.

Two ways of collapsing are held in balance: centring the teacher's outputs forbids one prototype for
all, sharpening them forbids the uniform distribution. Early in training the prototypes wait, as
their first gradients are noise.
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
from models.blocks.multi_crop import check_crop_sizes
from models.clustering.sinkhorn import sinkhorn
from models.collectives import all_reduce_sum, global_mean
from models.encoders.factory import EncoderConfig
from models.method import UNLIKE_VIEWS, Method, MethodConfig, ViewGroups

LOCAL = "local_crops"
Centring = Literal["mean", "sinkhorn", "none"]
_BALANCING = 3  # rounds of Sinkhorn-Knopp, as all use


class SelfDistillationConfig(MethodConfig):
    """Settings of DINO and its kin; the defaults are DINO's for ViT-S on ImageNet."""

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
    centring: Centring = Field(
        default="mean",
        description=(
            "what forbids one prototype for all: subtracting the teacher's mean outputs, giving"
            " every prototype an equal share of the global batch (sinkhorn), or nothing"
        ),
    )
    center_momentum: float = Field(
        default=0.9, ge=0.0, lt=1.0, description="share of the mean outputs kept in a step"
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
        description="the prototypes wait for this first fraction of num_steps",
    )
    hidden_dim: int = Field(
        default=2048, ge=1, description="features of the head's two hidden layers"
    )
    bottleneck_dim: int = Field(default=256, ge=2, description="features in which prototypes live")
    head_norm: bool = Field(
        default=False,
        description="batch norm in the head's hidden layers, for residual networks",
    )
    prototype_std: float = Field(
        default=1.0,
        gt=0.0,
        description=(
            "deviation of the prototypes' features at the start; only their direction counts, which"
            " an optimiser turns the faster the shorter they are (DINO's authors: 0.036)"
        ),
    )

    def idle(self) -> dict[str, str]:
        """Return what a temperature that does not change, or no mean, has no use for."""
        unused = {} if self.centring == "mean" else {"center_momentum": "centring"}
        if not self.teacher_warmup_fraction:
            return unused | {"first_teacher_temperature": "teacher_warmup_fraction"}
        still = self.first_teacher_temperature == self.teacher_temperature
        return unused | ({"teacher_warmup_fraction": "first_teacher_temperature"} if still else {})


class PrototypeHead(nn.Module):
    """Three layers with GELU, and prototypes of unit length (the authors' weight norm with its
    scale fixed at 1).

    Args:
        embed_dim: Features of the encoder.
        config: Widths and number of prototypes.
    """

    def __init__(self, embed_dim: int, config: SelfDistillationConfig) -> None:
        super().__init__()
        layers = list[nn.Module]()
        for dim in (embed_dim, config.hidden_dim):
            norm = [nn.BatchNorm1d(config.hidden_dim)] if config.head_norm else []
            layers += [nn.Linear(dim, config.hidden_dim), *norm, nn.GELU()]
        self.layers = nn.Sequential(*layers, nn.Linear(config.hidden_dim, config.bottleneck_dim))
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        directions = torch.randn(config.num_prototypes, config.bottleneck_dim)
        self.prototypes = nn.Parameter(config.prototype_std * directions)

    def bottleneck(self, embedding: Tensor) -> Tensor:
        """Bring embeddings (..., D) to where prototypes live: (..., bottleneck_dim) float32, of
        length 1."""
        features: Tensor = self.layers(embedding.flatten(0, -2)).unflatten(0, embedding.shape[:-1])
        return functional.normalize(features.float(), dim=-1)

    def forward(self, embedding: Tensor) -> Tensor:
        """Compare embeddings (..., D) with the prototypes, (..., K) float32."""
        bottleneck = self.bottleneck(embedding)
        prototypes = functional.normalize(self.prototypes, dim=1)
        # bfloat16's steps of 0.004 are 0.1 after sharpening
        with torch.autocast(embedding.device.type, enabled=False):
            return bottleneck @ prototypes.T


class SelfDistillation(Method):
    """A student and a teacher, each an encoder and heads; the teacher's encoder ships.

    Attributes:
        places: What has a head's output in a sample, and a mean of its own to be centred by: the
            name of each one's buffer.
    """

    view_groups: ClassVar[ViewGroups] = {**dict.fromkeys(UNLIKE_VIEWS, 1), LOCAL: None}
    accumulates: ClassVar[bool] = False
    places: ClassVar[tuple[str, ...]] = ("center",)
    settings: SelfDistillationConfig
    center: Tensor

    def __init__(
        self,
        config: SelfDistillationConfig,
        encoder_config: EncoderConfig,
        views: Views,
        seed: int,
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        check_crop_sizes(views, self.encoder)
        self.settings = config
        self.groups = [name for name in self.view_groups if name in views.groups]
        self.student_encoder = self.encoder
        self.encoder = frozen_copy(self.student_encoder)
        self.student_head = PrototypeHead(self.encoder.embed_dim, config)
        self.teacher_head = frozen_copy(self.student_head)
        if config.centring == "mean":
            for place in self.places:
                self.register_buffer(place, torch.zeros(config.num_prototypes))
        # of each place: the step's sum of teacher outputs over all workers, and how many
        self._seen: dict[str, Tensor] = {}

    def heads(self) -> list[tuple[PrototypeHead, PrototypeHead]]:
        """Return the heads, each student's with its teacher's."""
        return [(self.student_head, self.teacher_head)]

    def project(self, embedding: Tensor) -> Tensor:
        """Return the targets that the teacher's embeddings (B, D) would be, (B, K).

        They tell both ways of collapsing: all images have the same target then, while embeddings
        stay as they are, as no gradient is left to move them. In place of Sinkhorn-Knopp, which
        balances the batches of all workers, these outputs' own mean centres them.
        """
        outputs = self.teacher_head(embedding)
        if self.settings.centring == "mean":
            outputs = outputs - self.center
        if self.settings.centring == "sinkhorn":
            outputs = outputs - outputs.mean(0)
        targets: Tensor = (outputs / self._teacher_temperature()).softmax(-1)
        return targets

    @torch.no_grad()
    def aim(self, outputs: Tensor, weight: Tensor, place: str = "center") -> Tensor:
        """Make the student's targets of the teacher's outputs: centred, and sharpened.

        Args:
            outputs: (..., K) float32.
            weight: How much each counts, (...) float; those of weight 0 change no other's target.
            place: Whose mean they are centred by.

        Returns:
            Distributions over the prototypes, (..., K) float32.
        """
        temperature = self._teacher_temperature()
        flat = outputs.flatten(0, -2)  # (N, K)
        if self.settings.centring == "sinkhorn":
            targets = sinkhorn(flat, weight.flatten(), epsilon=temperature, iterations=_BALANCING)
            return targets.view_as(outputs)
        if self.settings.centring == "none":
            return (outputs / temperature).softmax(-1)
        weight = weight.flatten().to(flat.dtype)
        total = torch.cat([weight @ flat, weight.sum().view(1)])
        self._seen[place] = all_reduce_sum(total)
        return ((outputs - self.get_buffer(place)) / temperature).softmax(-1)

    def _teacher_temperature(self) -> Tensor:
        """Follow a straight line from the first temperature to the last over the warm-up."""
        config = self.settings
        warm = (self.progress / max(config.teacher_warmup_fraction, 1e-9)).clamp(max=1)
        return (
            config.first_teacher_temperature
            + (config.teacher_temperature - config.first_teacher_temperature) * warm
        )

    def before_step(self, step: int, num_steps: int) -> None:
        """Keep the prototypes where they are in the first steps."""
        if step < self.settings.freeze_fraction * num_steps:
            for student, _ in self.heads():
                student.prototypes.grad = None

    @torch.no_grad()
    def after_step(self, step: int, num_steps: int) -> None:
        """Move the centres towards the step's mean outputs, and the teacher."""
        super().after_step(step, num_steps)
        for place, seen in self._seen.items():
            count = seen[-1]
            share = (1 - self.settings.center_momentum) * (count > 0)
            self.get_buffer(place).lerp_(seen[:-1] / count.clamp(min=1), share)
        self._seen = {}
        momentum = cosine_momentum(step, num_steps, self.settings.momentum)
        follow(self.encoder, self.student_encoder, momentum)
        for student, teacher in self.heads():
            follow(teacher, student, momentum)


@torch.no_grad()
def signs_of_life(targets: Tensor, per_sample: Tensor, valid: Tensor) -> dict[str, Tensor]:
    """Split the cross entropy of targets and predictions, as DINO's authors watch it (section 5.3).

    Args:
        targets: Distributions (U, B, K) from U views.
        per_sample: Cross entropy of what is predicted, mean over pairs of views in which each
            target has an equal part, (B,).
        valid: (B,) bool.

    Returns:
        target_entropy: Of a target, nats, mean over the global batch's valid samples. After a
            collapse to one prototype 0, to the uniform distribution log K.
        divergence: What the loss is beyond it: of predictions from targets, nats. It is 0 after
            either collapse, as all targets are then the same.
        prototype_entropy: Of this worker's mean target, nats; 0 after a collapse to one prototype,
            log K after the other one and in health.
    """
    entropy = torch.special.entr(targets).sum(-1).mean(0)  # (B,)
    used = targets.where(valid.view(1, -1, 1), 0.0).flatten(0, 1)
    return {
        "target_entropy": global_mean(entropy, valid),
        "divergence": global_mean(per_sample.detach() - entropy, valid),
        "prototype_entropy": health.prototype_entropy(used),
    }


def multi_crop_views(
    size: int,
    *,
    num_local: int,
    global_scale: tuple[float, float],
    local_scale: tuple[float, float],
) -> Views:
    """Make BYOL's two views, cut large, and several small ones, `local_crops`.

    Args:
        size: Side of the two large views, px; the small ones have `local_size`.
        num_local: How many small ones.
        global_scale: Least and greatest share of the image in a large view.
        local_scale: The same, in a small one.
    """
    cut = {"scale": global_scale}
    large = {name: group.model_copy(update=cut) for name, group in byol_views(size).groups.items()}
    colours = large[UNLIKE_VIEWS[0]]
    small = CropGroup(
        count=num_local,
        size=local_size(size),
        scale=local_scale,
        color_jitter=colours.color_jitter,
        greyscale=colours.greyscale,
        blur=blur(size),
    )
    return Views(size=size, groups={**large, LOCAL: small})
