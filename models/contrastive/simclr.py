"""SimCLR (Chen 2020, arXiv:2002.05709).

Two random views of an image attract each other and repel the views of every other image of the global batch. What makes
it work is the augmentation: without colour distortion two crops of one image share their histogram, and the encoder
solves the task by comparing colours. It cannot collapse, as the negatives forbid it, but with few negatives, with batch
norm over one worker's samples (which leaks who is in the batch) or with a temperature near 1 it learns little.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from augment.recipe import Views, simclr_views
from models.encoders.factory import EncoderConfig
from models.heads import mlp
from models.losses import nt_xent
from models.method import Batch, Method, MethodConfig, check_views

_GROUP = "global_crops"


class SimCLRConfig(MethodConfig):
    """SimCLR's settings; the defaults are the paper's for ImageNet."""

    name: Literal["simclr"] = "simclr"
    temperature: float = Field(
        default=0.1,
        gt=0.0,
        le=10.0,
        description="divides the cosine similarities; 0.1 suits a batch of 4096, 0.2 to 0.5 one of 256",
    )
    hidden_dim: int = Field(default=2048, ge=1, description="features of the projection head's hidden layer")
    projection_dim: int = Field(default=128, ge=2, description="features in which the views are compared")


class SimCLR(Method):
    """Encoder, projection head and NT-Xent over the views of all workers."""

    Config: ClassVar[type[MethodConfig]] = SimCLRConfig
    default_views = staticmethod(simclr_views)
    accumulates: ClassVar[bool] = False

    def __init__(self, config: SimCLRConfig, encoder_config: EncoderConfig, views: Views, seed: int) -> None:
        super().__init__(config, encoder_config, views, seed)
        check_views(views, _GROUP, 2)
        self.temperature = config.temperature
        dims = (self.encoder.embed_dim, config.hidden_dim, config.projection_dim)
        # Batch norm after both layers, as in the authors' code; the second without scale and shift.
        self.projection_head = mlp(dims, norm=True, last_norm=True)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Contrast the two views.

        Returns:
            loss: NT-Xent, nats, mean over the global batch's valid anchors.
            contrast_top1: Fraction of this worker's anchors whose most similar view, among this worker's only, is their
                own image's other one; 1 / (2B - 1) at chance.
            embedding: The encoder's output for the first view (B, D), detached; rows of invalid samples included.
        """
        images = batch["views"][_GROUP]  # (2, B, 3, S, S)
        num_samples = images.shape[1]
        # Both views in one pass: batch norm then sees one distribution, and the kernels one large batch.
        embedding = self.encoder(images.flatten(0, 1))  # (2B, D)
        projection = self.projection_head(embedding).unflatten(0, (2, num_samples))  # (2, B, projection_dim)
        return {
            "loss": nt_xent(projection, temperature=self.temperature, valid=batch["valid"]),
            "contrast_top1": _contrast_top1(projection.detach(), batch["valid"]),
            "embedding": embedding[:num_samples].detach(),
        }


def _contrast_top1(projection: Tensor, valid: Tensor) -> Tensor:
    num_samples = projection.shape[1]
    z = functional.normalize(projection.float(), dim=-1).flatten(0, 1)  # (2B, D)
    anchor_valid = valid.repeat(2)  # (2B,)
    index = torch.arange(2 * num_samples, device=z.device)
    excluded = (index.unsqueeze(0) == index.unsqueeze(1)) | ~anchor_valid  # (2B, 2B): itself, and invalid candidates
    nearest = (z @ z.T).masked_fill(excluded, float("-inf")).argmax(dim=1)  # (2B,)
    hits = (nearest == (index + num_samples) % (2 * num_samples)) & anchor_valid
    return hits.sum() / anchor_valid.sum().clamp(min=1)
