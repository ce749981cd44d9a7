"""BYOL (Grill 2020, arXiv:2006.07733).

One view's prediction must equal what a slowly moving copy of the network makes of the other view;
there are no negatives. That everything could be mapped to one point is prevented by nothing in the
loss but by its dynamics: the prediction head and the moving copy. Without the head, or with a copy
that follows at once, the features collapse; with batch norm over a worker's few samples, or without
any, it is fragile.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from augment.presets import byol_views
from augment.recipe import Views
from models.blocks.ema import cosine_momentum, follow, frozen_copy
from models.blocks.heads import mlp
from models.collectives import global_mean
from models.encoders.factory import EncoderConfig
from models.method import UNLIKE_VIEWS, Batch, Method, MethodConfig, ViewGroups


class BYOLConfig(MethodConfig):
    """BYOL's settings; the defaults are the paper's for 1000 epochs of ImageNet."""

    name: Literal["byol"] = "byol"
    momentum: float = Field(
        default=0.996,
        ge=0.0,
        lt=1.0,
        description="share of the teacher kept in the first step; rises to 1",
    )
    hidden_dim: int = Field(default=4096, ge=1, description="features of both heads' hidden layer")
    projection_dim: int = Field(
        default=256, ge=2, description="features in which the views are compared"
    )
    predictor: bool = Field(
        default=True, description="false: without prediction head, an ablation that collapses"
    )


class BYOL(Method):
    """Encoder with two heads, a teacher with one, and the distance of prediction and target both
    ways."""

    Config: ClassVar[type[MethodConfig]] = BYOLConfig
    small: ClassVar[MethodConfig] = BYOLConfig(hidden_dim=64, projection_dim=32)
    view_groups: ClassVar[ViewGroups] = dict.fromkeys(UNLIKE_VIEWS, 1)
    default_views = staticmethod(byol_views)
    takes_clips: ClassVar[bool] = True
    accumulates: ClassVar[bool] = False  # batch norm in the heads

    def __init__(
        self, config: BYOLConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.momentum = config.momentum
        hidden = config.hidden_dim
        out = config.projection_dim
        # No bias at their ends, as the authors: the prediction head's norm would subtract the
        # projection's.
        self.projection_head = mlp([self.encoder.embed_dim, hidden, out], last_bias=False)
        self.prediction_head = (
            mlp([out, hidden, out], last_bias=False) if config.predictor else nn.Identity()
        )
        self.teacher = frozen_copy(self._student())

    def _student(self) -> nn.Sequential:
        return nn.Sequential(self.encoder, self.projection_head)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Predict the teacher's projection of each view from the other.

        Returns:
            loss: Squared distance of unit vectors, 2 - 2 * cosine, of both directions together, in
                0..8; mean over the global batch's valid samples.
            embedding: The encoder's output for the first view (B, D), detached; rows of invalid
                samples included.
        """
        images = [batch["views"][group][0] for group in UNLIKE_VIEWS]  # (B, 3, S, S) each
        embeddings = [self.encoder(view) for view in images]
        predictions = [
            self.prediction_head(self.projection_head(embedding)).float()
            for embedding in embeddings
        ]
        with torch.no_grad():
            targets = [self.teacher(view).float() for view in images]
        cosines = [
            functional.cosine_similarity(predictions[i], targets[1 - i], dim=-1) for i in range(2)
        ]  # (B,) each
        return {
            "loss": global_mean(4 - 2 * (cosines[0] + cosines[1]), batch["valid"]),
            "embedding": embeddings[0].detach(),
        }

    def after_step(self, step: int, num_steps: int) -> None:
        """Move the teacher."""
        super().after_step(step, num_steps)
        follow(self.teacher, self._student(), cosine_momentum(step, num_steps, self.momentum))
