"""VICReg (Bardes 2021, arXiv:2105.04906).

Two views' features should be equal (invariance), each feature should vary over the batch (variance)
and no two should vary together (covariance). The variance term forbids the collapse to a point, the
covariance term that to a line. Unlike in Barlow Twins nothing is normalised, so the three weights
set the scale of the features.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from augment.presets import byol_views
from augment.recipe import Views
from models.blocks.heads import mlp
from models.collectives import all_reduce_sum, gather, my_share
from models.encoders.factory import EncoderConfig
from models.method import UNLIKE_VIEWS, Batch, Method, MethodConfig, ViewGroups

_VARIANCE_FLOOR = 1e-4
_TARGET_STD = 1.0


class VICRegConfig(MethodConfig):
    """VICReg's settings; the defaults are the paper's for ImageNet."""

    name: Literal["vicreg"] = "vicreg"
    invariance_weight: float = Field(
        default=25.0, ge=0.0, description="weight of the views' squared distance"
    )
    variance_weight: float = Field(
        default=25.0, ge=0.0, description="weight of the features' missing deviation"
    )
    covariance_weight: float = Field(
        default=1.0, ge=0.0, description="weight of the features' squared covariances"
    )
    projection_dim: int = Field(
        default=8192,
        ge=2,
        description=(
            "features D of every layer of the projection head; the loss takes 8 * D^2 bytes,"
            " shared among the workers"
        ),
    )


class VICReg(Method):
    """Encoder, projection head, and three terms over the views of all workers."""

    Config: ClassVar[type[MethodConfig]] = VICRegConfig
    small: ClassVar[MethodConfig] = VICRegConfig(projection_dim=32)
    view_groups: ClassVar[ViewGroups] = dict.fromkeys(UNLIKE_VIEWS, 1)
    default_views = staticmethod(byol_views)
    takes_clips: ClassVar[bool] = True
    accumulates: ClassVar[bool] = False
    projection_std: float | None = 1.0

    def __init__(
        self, config: VICRegConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.settings = config
        dim = config.projection_dim
        # all terms ignore a shift
        self.projection_head = mlp([self.encoder.embed_dim, dim, dim, dim], last_bias=False)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Compare the two views' projections.

        Returns:
            loss: Weighted sum of the three terms of the global batch, equal on every worker.
            invariance, variance, covariance: The terms of `vicreg_terms`, detached.
            embedding: The encoder's output for the first view (B, D), detached; rows of invalid
                samples included.
        """
        embeddings = [
            self.encoder(batch["views"][group][0]) for group in UNLIKE_VIEWS
        ]  # (B, D) each
        first, second = (self.projection_head(embedding) for embedding in embeddings)
        invariance, variance, covariance = vicreg_terms(first, second, batch["valid"])
        weights = self.settings
        return {
            "loss": (
                weights.invariance_weight * invariance
                + weights.variance_weight * variance
                + weights.covariance_weight * covariance
            ),
            "invariance": invariance.detach(),
            "variance": variance.detach(),
            "covariance": covariance.detach(),
            "embedding": embeddings[0].detach(),
        }


def vicreg_terms(first: Tensor, second: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Measure invariance, variance and covariance (eq. 1 to 6; the two views' variances averaged,
    as by the authors).

    Args:
        first: Projections of one view of this worker's samples, (B, D), any float dtype; B alike on
            every worker.
        second: Of the other view, (B, D).
        valid: (B,) bool; the other rows count in no term.

    Returns:
        Squared distance of a feature, mean over samples and features; by how much deviations fall
        short of 1, mean over features and views; squared off-diagonal covariances over D, sum of
        both views. Float32 scalars over the valid samples of all workers, equal on every worker.
        Zero where fewer than two are valid.
    """
    with torch.autocast(first.device.type, enabled=False):
        # Everyone's rows rather than everyone's D x D sums: fewer bytes while the batch is smaller
        # than D. Each worker then multiplies with its share of the columns.
        everyone = [gather(z.float()) for z in (first, second)]  # (W*B, D) each
        mask = gather(valid).unsqueeze(1)  # (W*B, 1)
        num_valid = mask.sum()
        dim = first.shape[1]
        mine = my_share(dim)
        distance = (everyone[0] - everyone[1]).square().where(mask, 0.0).sum() / (
            num_valid.clamp(min=1) * dim
        )
        variance = torch.zeros_like(distance)
        covariance = torch.zeros_like(distance)
        for z in everyone:
            centred = (z - z.where(mask, 0.0).sum(0) / num_valid.clamp(min=1)).where(mask, 0.0)
            degrees = (num_valid - 1).clamp(min=1)
            columns = centred.T @ centred[:, mine] / degrees  # (D, D / W)
            off_diagonal = columns.square().sum() - columns[mine].diagonal().square().sum()
            variances = centred.square().sum(0) / degrees  # (D,)
            variance = (
                variance
                + functional.relu(_TARGET_STD - (variances + _VARIANCE_FLOOR).sqrt()).mean() / 2
            )
            covariance = covariance + all_reduce_sum(off_diagonal) / dim
        enough = num_valid > 1
        return distance * enough, variance * enough, covariance * enough
