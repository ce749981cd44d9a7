"""Barlow Twins (Zbontar 2021, arXiv:2103.03230).

The cross-correlation of two views' features, over the batch, should be the identity: a feature
agrees with itself across views and says nothing that another says. Decorrelation is what keeps it
from collapsing, and why it likes wide projections; with a batch small beside the projection the
correlations are mostly noise.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from augment.presets import byol_views
from augment.recipe import Views
from models.blocks.heads import mlp
from models.collectives import all_reduce_sum, gather, my_share
from models.encoders.factory import EncoderConfig
from models.method import UNLIKE_VIEWS, Batch, Method, MethodConfig, ViewGroups

_VARIANCE_FLOOR = 1e-5  # of the batch norm in the authors' loss


class BarlowTwinsConfig(MethodConfig):
    """Barlow Twins' settings; the defaults are the paper's for ImageNet."""

    name: Literal["barlow_twins"] = "barlow_twins"
    redundancy_weight: float = Field(
        default=0.0051,
        ge=0.0,
        description="weight of an off-diagonal correlation's square beside a diagonal one's",
    )
    projection_dim: int = Field(
        default=8192,
        ge=2,
        description=(
            "features D of every layer of the projection head; the loss takes 4 * D^2 bytes,"
            " shared among the workers"
        ),
    )


class BarlowTwins(Method):
    """Encoder, projection head, and the cross-correlation of two views over all workers."""

    Config: ClassVar[type[MethodConfig]] = BarlowTwinsConfig
    small: ClassVar[MethodConfig] = BarlowTwinsConfig(projection_dim=32)
    view_groups: ClassVar[ViewGroups] = dict.fromkeys(UNLIKE_VIEWS, 1)
    default_views = staticmethod(byol_views)
    takes_clips: ClassVar[bool] = True
    accumulates: ClassVar[bool] = False

    def __init__(
        self, config: BarlowTwinsConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.redundancy_weight = config.redundancy_weight
        dim = config.projection_dim
        # the loss centres
        self.projection_head = mlp([self.encoder.embed_dim, dim, dim, dim], last_bias=False)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Correlate the two views' projections.

        Returns:
            loss: `barlow_twins_loss` of the global batch, equal on every worker.
            embedding: The encoder's output for the first view (B, D), detached; rows of invalid
                samples included.
        """
        embeddings = [
            self.encoder(batch["views"][group][0]) for group in UNLIKE_VIEWS
        ]  # (B, D) each
        first, second = (self.projection_head(embedding) for embedding in embeddings)
        loss = barlow_twins_loss(
            first, second, redundancy_weight=self.redundancy_weight, valid=batch["valid"]
        )
        return {"loss": loss, "embedding": embeddings[0].detach()}


def barlow_twins_loss(
    first: Tensor, second: Tensor, *, redundancy_weight: float, valid: Tensor
) -> Tensor:
    """Ask for equal features across views and unlike features within (eq. 1).

    Args:
        first: Projections of one view of this worker's samples, (B, D), any float dtype; B alike on
            every worker.
        second: Of the other view, (B, D).
        redundancy_weight: Lambda, >= 0.
        valid: (B,) bool; the other rows count in no mean, deviation or correlation.

    Returns:
        Sum over the diagonal of (1 - C_ii)^2 plus the weighted sum over the rest of C_ij^2, C the
        correlations over the valid samples of all workers; a float32 scalar, equal on every worker.
        Zero where fewer than two are valid.
    """
    with torch.autocast(first.device.type, enabled=False):
        # Everyone's rows rather than everyone's D x D sums: fewer bytes while the batch is smaller
        # than D. Each worker then correlates with its share of the columns.
        everyone_valid = gather(valid)  # (W*B,)
        standard = [
            _standardise(gather(z.float()), everyone_valid) for z in (first, second)
        ]  # (W*B, D) each
        num_valid = everyone_valid.sum()
        mine = my_share(first.shape[1])
        columns = standard[0].T @ standard[1][:, mine] / num_valid.clamp(min=1)  # (D, D / W)
        diagonal = columns[mine].diagonal()
        off_diagonal = columns.square().sum() - diagonal.square().sum()
        loss = (1 - diagonal).square().sum() + redundancy_weight * off_diagonal
        return all_reduce_sum(loss) * (num_valid > 1)


def _standardise(z: Tensor, valid: Tensor) -> Tensor:
    """Give each feature mean 0 and deviation 1 over the valid rows; zero elsewhere."""
    mask = valid.unsqueeze(1)
    num_valid = valid.sum().clamp(min=1)
    centred = (z - z.where(mask, 0.0).sum(0) / num_valid).where(mask, 0.0)
    return centred / (centred.square().sum(0) / num_valid + _VARIANCE_FLOOR).sqrt()
