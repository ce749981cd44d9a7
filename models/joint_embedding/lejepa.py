"""LeJEPA (Balestriero & LeCun 2025, arXiv:2511.08544).

All views of an image should project to one point, the mean of its large views. By itself that is
solved by one point for all images. The cloud of projections is therefore held to a standard normal
distribution, as seen along random directions that are drawn anew each step (SIGReg); no collapsed
cloud is near to it. This one term with one weight takes the place of every other guard: there is no
teacher, no stop-gradient, no predictor and no schedule.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from augment.ops import Solarize
from augment.presets import blur, byol_views, local_size
from augment.recipe import Views
from models.blocks.heads import mlp
from models.blocks.multi_crop import check_crop_sizes, encode_by_size
from models.collectives import global_mean
from models.encoders.factory import EncoderConfig
from models.joint_embedding.sigreg import random_directions, sigreg
from models.method import UNLIKE_VIEWS, Batch, Method, MethodConfig, ViewGroups

_GROUP = "global_crops"
_LOCAL = "local_crops"
_NUM_GLOBAL = 2


class LeJEPAConfig(MethodConfig):
    """LeJEPA's settings; the defaults are its authors' for ImageNet."""

    name: Literal["lejepa"] = "lejepa"
    sigreg_weight: float = Field(
        default=0.02,
        ge=0.0,
        le=1.0,
        description=(
            "weight of the distance to a normal cloud, the predictions' being one minus it; at 0"
            " everything collapses to a point"
        ),
    )
    num_directions: int = Field(
        default=1024, ge=1, description="directions along which the cloud is seen, a step"
    )
    num_knots: int = Field(default=17, ge=2, description="places of the quadrature, a direction")
    hidden_dim: int = Field(
        default=2048, ge=1, description="features of the projection head's two hidden layers"
    )
    projection_dim: int = Field(
        default=128, ge=2, description="features in which the views are compared"
    )


class LeJEPA(Method):
    """Encoder, projection head, and two terms over the views of all workers."""

    Config: ClassVar[type[MethodConfig]] = LeJEPAConfig
    small: ClassVar[MethodConfig] = LeJEPAConfig(
        num_directions=32, hidden_dim=64, projection_dim=16
    )
    view_groups: ClassVar[ViewGroups] = {_GROUP: _NUM_GLOBAL, _LOCAL: None}
    takes_clips: ClassVar[bool] = True
    accumulates: ClassVar[bool] = False
    projection_std: float | None = 1.0
    step: Tensor

    @staticmethod
    def default_views(size: int) -> Views:
        """Make two large views and six small ones, `local_crops`; all in the same colours.

        Args:
            size: Side of the large views, px; the small ones have `local_size`.
        """
        colours = byol_views(size).groups[UNLIKE_VIEWS[0]]
        large = colours.model_copy(
            update={
                "count": 2,
                "scale": (0.3, 1.0),
                "blur": blur(size),
                "solarize": Solarize(p=0.2),
            }
        )
        small = large.model_copy(
            update={"count": 6, "size": local_size(size), "scale": (0.05, 0.3)}
        )
        return Views(size=size, groups={_GROUP: large, _LOCAL: small})

    def __init__(
        self, config: LeJEPAConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        check_crop_sizes(views, self.encoder)
        self.settings = config
        self.groups = [name for name in self.view_groups if name in views.groups]
        hidden = config.hidden_dim
        self.projection_head = mlp([self.encoder.embed_dim, hidden, hidden, config.projection_dim])
        # of the run; what the directions are drawn by
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Predict the mean projection of the large views from every view.

        Returns:
            loss: Weighted sum of both terms.
            prediction: Squared distance of a feature, mean over features, views and the global
                batch's valid samples; 0 after a collapse, 1.25 for eight unrelated views in a
                standard normal cloud.
            sigreg: Distance of the global batch's projections from a standard normal cloud, mean
                over views; about 1.06 for a draw of such a cloud.
            embedding: The encoder's output for the first large view (B, D), detached; rows of
                invalid samples included.
        """
        config = self.settings
        valid = batch["valid"]
        crops = [batch["views"][name] for name in self.groups]
        embeddings = encode_by_size(self.encoder, crops)  # (V, B, embed_dim)
        projections = self.projection_head(embeddings.flatten(0, 1))
        z = projections.unflatten(0, embeddings.shape[:2]).float()  # (V, B, D)
        directions = random_directions(
            config.num_directions, config.projection_dim, seed=self.seed, step=self.step
        )
        centre = z[:_NUM_GLOBAL].mean(0)  # (B, D)
        prediction = global_mean((z - centre).square().mean((0, 2)), valid)
        distance = sigreg(z, valid, directions, num_knots=config.num_knots)
        weight = config.sigreg_weight
        return {
            "loss": (1 - weight) * prediction + weight * distance,
            "prediction": prediction.detach(),
            "sigreg": distance.detach(),
            "embedding": embeddings[0].detach(),
        }

    def after_step(self, step: int, num_steps: int) -> None:
        """Go on to the directions of the next step."""
        super().after_step(step, num_steps)
        self.step.fill_(step)
