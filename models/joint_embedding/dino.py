"""DINO (Caron 2021, arXiv:2104.14294).

A student sees large and small crops and must give the distribution over prototypes that its
teacher, a moving average of itself, gives for the large ones. Two ways of collapsing are held in
balance: centring the teacher's outputs forbids one prototype for all, sharpening them forbids the
uniform distribution. Either alone collapses; early in training the last layer waits, as its first
gradients are noise.

The teacher is the better encoder throughout, so it is the one that ships. All of it but the loss is
in `self_distillation.py`, which DINO's successors share.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from augment.recipe import Views
from models.blocks.multi_crop import encode_by_size
from models.collectives import global_mean
from models.joint_embedding.self_distillation import (
    SelfDistillation,
    SelfDistillationConfig,
    multi_crop_views,
    signs_of_life,
)
from models.losses import cross_view_entropy
from models.method import UNLIKE_VIEWS, Batch, MethodConfig


class DINOConfig(SelfDistillationConfig):
    """DINO's settings; the defaults are the paper's for ViT-S on ImageNet."""

    name: Literal["dino"] = "dino"


class DINO(SelfDistillation):
    """A student and a teacher, each an encoder and a head, and the cross entropy of their outputs
    between views."""

    Config: ClassVar[type[MethodConfig]] = DINOConfig
    small: ClassVar[MethodConfig] = DINOConfig(
        hidden_dim=64, bottleneck_dim=16, num_prototypes=20, center_momentum=0.99
    )
    takes_clips: ClassVar[bool] = True

    @staticmethod
    def default_views(size: int) -> Views:
        """Make the views of section 3.2: BYOL's two, cut large, and eight small ones,
        `local_crops`.

        Args:
            size: Side of the two large views, px; the small ones have `local_size`.
        """
        return multi_crop_views(size, num_local=8, global_scale=(0.4, 1.0), local_scale=(0.05, 0.4))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Predict the teacher's outputs for each large crop from every other crop.

        Returns:
            loss: Cross entropy, nats, mean over pairs of views and the global batch's valid
                samples; log K at chance.
            target_entropy, divergence, prototype_entropy: As `signs_of_life`.
            embedding: The teacher's, for the first large crop (B, D); rows of invalid samples
                included.
        """
        valid = batch["valid"]
        crops = [batch["views"][name] for name in self.groups]
        outputs = self.student_head(encode_by_size(self.student_encoder, crops))  # (V, B, K)
        with torch.no_grad():
            embeddings = encode_by_size(self.encoder, crops[: len(UNLIKE_VIEWS)])  # (2, B, D)
            teacher_outputs = self.teacher_head(embeddings)  # (2, B, K)
        targets = self.aim(teacher_outputs, valid.expand(len(embeddings), -1).float())
        with torch.autocast(outputs.device.type, enabled=False):
            log_p = (outputs / self.settings.student_temperature).log_softmax(-1)
            per_sample = cross_view_entropy(targets, log_p)
        return {
            "loss": global_mean(per_sample, valid),
            **signs_of_life(targets, per_sample, valid),
            "embedding": embeddings[0],
        }
