"""DINOv2 (Oquab 2023, arXiv:2304.07193), with the Gram anchoring of DINOv3 (arXiv:2508.10104).

iBOT made to scale: images and patches have heads of their own, every prototype gets an equal share
of the global batch (Sinkhorn-Knopp) instead of being centred, and each image's embedding is pushed
away from its nearest neighbour in the batch (KoLeo, arXiv:1806.03198), so that embeddings spread
evenly. Registers (arXiv:2309.16588), which catch what a large transformer else writes into patches
of no content, are the encoder's: a timm name with `reg4`.

In long runs patch tokens grow alike while the loss of images still falls. From `gram_start` on the
likeness of any two patches of an image is therefore held to what the teacher of that moment, kept
as it was, finds: features may turn, but not their structure.
"""

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from augment.recipe import Views
from models.blocks.ema import follow, frozen_copy
from models.collectives import gather, global_mean, rank
from models.encoders.factory import EncoderConfig
from models.joint_embedding.masked_distillation import (
    Looked,
    MaskedDistillation,
    MaskedDistillationConfig,
)
from models.joint_embedding.self_distillation import Centring, multi_crop_views
from models.method import UNLIKE_VIEWS, Batch, MethodConfig

_CLOSEST = 1e-6  # distance below which two embeddings push each other no harder


class DINOv2Config(MaskedDistillationConfig):
    """DINOv2's settings; the defaults are the authors' for ViT-L on ImageNet-22k."""

    name: Literal["dinov2"] = "dinov2"
    teacher_temperature: float = Field(
        default=0.07,
        gt=0.0,
        description="divides the teacher's outputs after the warm-up; above 0.07 it collapses",
    )
    centring: Centring = Field(
        default="sinkhorn",
        description=(
            "what forbids one prototype for all: subtracting the teacher's mean outputs, giving"
            " every prototype an equal share of the global batch (sinkhorn), or nothing"
        ),
    )
    momentum: float = Field(
        default=0.992,
        ge=0.0,
        lt=1.0,
        description="share of the teacher kept in the first step; rises to 1",
    )
    share_heads: bool = Field(
        default=False, description="images and patches have one head, and so the same prototypes"
    )
    koleo_weight: float = Field(
        default=0.1, ge=0.0, description="weight of each embedding's nearness to its nearest one"
    )
    gram_start: float | None = Field(
        default=None,
        gt=0.0,
        lt=1.0,
        description=(
            "fraction of num_steps from which on the patches' likeness is held to that moment's"
            " teacher, which takes an encoder's memory; null: never"
        ),
    )
    gram_weight: float = Field(
        default=2.0, ge=0.0, description="weight of the patches' change of likeness"
    )

    def idle(self) -> dict[str, str]:
        """Return what has no use without Gram anchoring, too."""
        return super().idle() | ({"gram_weight": "gram_start"} if self.gram_start is None else {})


class DINOv2(MaskedDistillation):
    """iBOT with heads apart, balanced targets, embeddings that spread, and an anchor of patches."""

    Config: ClassVar[type[MethodConfig]] = DINOv2Config
    small: ClassVar[MethodConfig] = DINOv2Config(
        hidden_dim=64, bottleneck_dim=16, num_prototypes=20, gram_start=0.5
    )
    settings: DINOv2Config
    anchored: Tensor

    @staticmethod
    def default_views(size: int) -> Views:
        """Make the views of the authors: two large ones, eight small ones, `local_crops`.

        Args:
            size: Side of the two large views, px; the small ones have `local_size`.
        """
        return multi_crop_views(
            size, num_local=8, global_scale=(0.32, 1.0), local_scale=(0.05, 0.32)
        )

    def __init__(
        self, config: DINOv2Config, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self._anchored = False  # `anchored`, without waiting for the device
        if config.gram_start is not None:
            self.gram_teacher = frozen_copy(self.encoder)
            self.register_buffer("anchored", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Predict the teacher's outputs, spread the embeddings and, late, hold the patches.

        Returns:
            What `compare` tells, and the teacher's embedding of the first large crop (B, D); rows
            of invalid samples included.
            koleo: Minus the log distance of an embedding from its nearest one, on the sphere; sum
                over the large crops. About 0 where they are as far apart as can be.
            gram: Mean squared change of the cosine of two patches of a crop since `gram_start`;
                there from then on.
        """
        valid = batch["valid"]
        looked = self.look(batch)
        out = self.compare(looked, valid)
        koleo = sum(koleo_loss(z, valid) for z in looked.student[: len(UNLIKE_VIEWS)])
        assert isinstance(koleo, Tensor)
        out["loss"] = out["loss"] + self.settings.koleo_weight * koleo
        out["koleo"] = koleo.detach()
        if self._anchored:
            gram = self._gram(looked, batch)
            out["loss"] = out["loss"] + self.settings.gram_weight * gram
            out["gram"] = gram.detach()
        return out

    def _gram(self, looked: Looked, batch: Batch) -> Tensor:
        """Compare the patches' likeness with what the teacher of `gram_start` finds."""
        large = torch.cat([batch["views"][name].flatten(0, 1) for name in UNLIKE_VIEWS])
        with torch.no_grad():
            before = self.gram_teacher.tokens(large).patches  # (2 * B, N, D)
        after = looked.student_patches.flatten(0, 1)
        return global_mean(gram_change(after, before).unflatten(0, (2, -1)).mean(0), batch["valid"])

    def after_step(self, step: int, num_steps: int) -> None:
        """Move centres and teacher; at `gram_start`, keep the teacher as it is."""
        super().after_step(step, num_steps)
        start = self.settings.gram_start
        if start is None:
            return
        begins = start * num_steps
        if step - 1 < begins <= step:
            follow(self.gram_teacher, self.encoder, 0.0)
        self._anchored = step >= begins
        self.anchored.fill_(self._anchored)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Know again whether the anchor has begun."""
        super()._load_from_state_dict(*args, **kwargs)
        if self.settings.gram_start is not None:
            self._anchored = bool(self.anchored)


def koleo_loss(z: Tensor, valid: Tensor) -> Tensor:
    """Measure how near each embedding is to its nearest one in the global batch, on the sphere.

    The estimator of differential entropy of Kozachenko and Leonenko (arXiv:1806.03198, eq. 2).

    Args:
        z: This worker's embeddings, (B, D), any float dtype; B the same on every worker.
        valid: (B,) bool; the others are no neighbours.

    Returns:
        Minus the log distance, mean over the global batch's valid samples; its average over workers
        is that mean. Zero where fewer than two samples are valid.
    """
    with torch.autocast(z.device.type, enabled=False):
        z = functional.normalize(z.float(), dim=-1)
        everyone = gather(z)  # (W * B, D)
        everyone_valid = gather(valid)
        place = torch.arange(len(z), device=z.device) + rank() * len(z)
        itself = place.unsqueeze(1) == torch.arange(len(everyone), device=z.device)
        likeness = (z @ everyone.T).detach()
        nearest = likeness.masked_fill(itself | ~everyone_valid, -torch.inf).argmax(1)
        distance = ((z - everyone[nearest]).square().sum(-1) + _CLOSEST**2).sqrt()
        return global_mean(-distance.log(), valid) * (everyone_valid.sum() > 1)


def gram_change(after: Tensor, before: Tensor) -> Tensor:
    """Measure how the cosines of an image's patches have changed (arXiv:2508.10104, eq. 2).

    Args:
        after: Patch tokens (B, N, D), any float dtype.
        before: Those of another encoder, (B, N, D).

    Returns:
        Squared difference, mean over the N * N pairs, (B,) float32.
    """
    with torch.autocast(after.device.type, enabled=False):
        cosines = list[Tensor]()
        for tokens in (after, before):
            unit = functional.normalize(tokens.float(), dim=-1)
            cosines.append(unit @ unit.transpose(1, 2))
        return (cosines[0] - cosines[1]).square().mean((1, 2))
