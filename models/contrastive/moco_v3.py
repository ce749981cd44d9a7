"""MoCo v3 (Chen 2021, arXiv:2104.02057).

MoCo without its queue: the batch is large enough to hold the negatives. Both views are queries and
keys in turn, a prediction head makes the two networks unlike, and the slowly moving copy's momentum
rises to 1. Vision transformers are unstable under it, with dips that show only in accuracy; a patch
embedding left at its random values prevents them.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from augment.presets import byol_views
from augment.recipe import Views
from models import health
from models.blocks.ema import cosine_momentum, follow, frozen_copy
from models.blocks.heads import mlp
from models.collectives import world_size
from models.encoders.factory import EncoderConfig
from models.losses import info_nce
from models.method import UNLIKE_VIEWS, Batch, Method, MethodConfig, ViewGroups


class MoCoV3Config(MethodConfig):
    """MoCo v3's settings; the defaults are the paper's for vision transformers on ImageNet."""

    name: Literal["moco_v3"] = "moco_v3"
    temperature: float = Field(
        default=0.2, gt=0.0, description="divides the cosine similarities; ResNet-50: 1"
    )
    momentum: float = Field(
        default=0.99,
        ge=0.0,
        lt=1.0,
        description="share of the teacher kept in the first step; rises to 1",
    )
    hidden_dim: int = Field(default=4096, ge=1, description="features of both heads' hidden layers")
    projection_dim: int = Field(
        default=256, ge=2, description="features in which the views are compared"
    )
    projection_layers: int = Field(
        default=3, ge=2, description="layers of the projection head; ResNet-50: 2"
    )
    freeze_patch_embed: bool = Field(
        default=True,
        description="leave a vision transformer's patch embedding at its random values",
    )


class MoCoV3(Method):
    """Encoder with two heads, a teacher with one, and InfoNCE both ways over the views of all
    workers."""

    Config: ClassVar[type[MethodConfig]] = MoCoV3Config
    small: ClassVar[MethodConfig] = MoCoV3Config(
        hidden_dim=64, projection_dim=32, projection_layers=2
    )
    view_groups: ClassVar[ViewGroups] = dict.fromkeys(UNLIKE_VIEWS, 1)
    default_views = staticmethod(byol_views)
    takes_clips: ClassVar[bool] = True
    accumulates: ClassVar[bool] = False

    def __init__(
        self, config: MoCoV3Config, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.temperature = config.temperature
        self.momentum = config.momentum
        hidden = config.hidden_dim
        out = config.projection_dim
        self.projection_head = mlp(
            [self.encoder.embed_dim, *[hidden] * (config.projection_layers - 1), out],
            last_norm=True,
        )
        transformer = self.encoder.supports("tokens")
        # As the authors: a norm at the end of a transformer's prediction head, none at the end of a
        # ResNet's.
        self.prediction_head = mlp([out, hidden, out], last_norm=transformer, last_bias=False)
        if transformer and config.freeze_patch_embed:
            self.encoder.freeze_patch_embedding()
        self.teacher = frozen_copy(self._student())

    def _student(self) -> nn.Sequential:
        return nn.Sequential(self.encoder, self.projection_head)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Contrast each view's prediction with the other view's key.

        Returns:
            loss: Sum of both directions' InfoNCE, nats times 2 * temperature as the authors scale
                it, mean over the global batch's valid samples.
            info_nce_bound: Nats of mutual information that the loss certifies, mean of both
                directions.
            embedding: The encoder's output for the first view (B, D), detached; rows of invalid
                samples included.
        """
        images = [batch["views"][group][0] for group in UNLIKE_VIEWS]  # (B, 3, S, S) each
        embeddings = [self.encoder(view) for view in images]
        queries = [
            self.prediction_head(self.projection_head(embedding)) for embedding in embeddings
        ]
        with torch.no_grad():
            keys = [self.teacher(view) for view in images]
        valid = batch["valid"]
        temperature = self.temperature
        both = [
            info_nce(queries[i], keys[1 - i], temperature=temperature, valid=valid)
            for i in range(2)
        ]
        nats = (both[0] + both[1]) / 2
        return {
            "loss": 4 * temperature * nats,
            "info_nce_bound": health.info_nce_bound(nats.detach(), world_size() * valid.sum()),
            "embedding": embeddings[0].detach(),
        }

    def after_step(self, step: int, num_steps: int) -> None:
        """Move the teacher."""
        super().after_step(step, num_steps)
        follow(self.teacher, self._student(), cosine_momentum(step, num_steps, self.momentum))
