"""SimCLR (Chen 2020, arXiv:2002.05709).

Two random views of an image attract each other and repel the views of every other image of the
global batch. What makes it work is the augmentation: without colour distortion two crops of one
image share their histogram, and the encoder solves the task by comparing colours. It cannot
collapse, as the negatives forbid it, but with few negatives, with batch norm over one worker's
samples (which leaks who is in the batch) or with a temperature near 1 it learns little.

`method.loss` puts an older objective of metric learning in NT-Xent's place, all else equal.
"""

from collections.abc import Callable
from functools import partial
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from augment.presets import simclr_views
from augment.recipe import Views
from models import health
from models.blocks.heads import mlp
from models.collectives import world_size
from models.encoders.factory import EncoderConfig
from models.losses import (
    contrastive,
    info_nce,
    lifted_structured,
    n_pairs,
    nce,
    nt_xent,
    soft_nearest_neighbour,
    triplet,
)
from models.method import Batch, Method, MethodConfig, ViewGroups

_GROUP = "global_crops"


class SimCLRConfig(MethodConfig):
    """SimCLR's settings; the defaults are the paper's for ImageNet."""

    name: Literal["simclr"] = "simclr"
    loss: Literal[
        "nt_xent",
        "info_nce",
        "nce",
        "contrastive",
        "triplet",
        "lifted_structured",
        "n_pairs",
        "soft_nearest_neighbour",
    ] = Field(
        default="nt_xent",
        description=(
            "what pulls views together; nt_xent is SimCLR's own, n_pairs wants"
            " optim.clip_grad_norm, as its embeddings grow"
        ),
    )
    temperature: float = Field(
        default=0.1,
        gt=0.0,
        description=(
            "nt_xent, info_nce, nce: divides the cosine similarities, 0.1 suits a batch of 4096,"
            " 0.2 to 0.5 one of 256; soft_nearest_neighbour: divides squared distances, about 0.4 *"
            " projection_dim"
        ),
    )
    margin: float | None = Field(
        default=None,
        gt=0.0,
        le=4.0,
        description=(
            "contrastive, lifted_structured: distance of unit vectors, null: 1; triplet: squared,"
            " null: 0.2"
        ),
    )
    mining: Literal["hard", "semi_hard"] = Field(
        default="semi_hard", description="triplet: the negative an anchor is compared with"
    )
    hidden_dim: int = Field(
        default=2048, ge=1, description="features of the projection head's hidden layer"
    )
    projection_dim: int = Field(
        default=128, ge=2, description="features in which the views are compared"
    )

    def idle(self) -> dict[str, str]:
        """Return what the chosen loss has no use for."""
        used = {
            "contrastive": ("margin",),
            "lifted_structured": ("margin",),
            "triplet": ("margin", "mining"),
            "n_pairs": (),
        }.get(self.loss, ("temperature",))
        return dict.fromkeys({"temperature", "margin", "mining"} - set(used), "loss")


class SimCLR(Method):
    """Encoder, projection head and a contrastive loss over the views of all workers."""

    Config: ClassVar[type[MethodConfig]] = SimCLRConfig
    small: ClassVar[MethodConfig] = SimCLRConfig(hidden_dim=64, projection_dim=32)
    view_groups: ClassVar[ViewGroups] = {_GROUP: 2}
    default_views = staticmethod(simclr_views)
    takes_clips: ClassVar[bool] = True
    accumulates: ClassVar[bool] = False

    def __init__(
        self, config: SimCLRConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.loss = config.loss
        self.objective = _objective(config)
        dims = (self.encoder.embed_dim, config.hidden_dim, config.projection_dim)
        # Batch norm after both layers, as in the authors' code; the second without scale and shift.
        # It would fix the lengths that the N-pair loss is to choose, at a scale where its softmax
        # is all but a maximum.
        self.projection_head = mlp(dims, norm=True, last_norm=config.loss != "n_pairs")

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Contrast the two views.

        Returns:
            loss: Mean over the global batch's valid anchors; nats for `nt_xent`.
            info_nce_bound: With `nt_xent` and `info_nce`, nats of mutual information that the loss
                certifies.
            contrast_top1: Fraction of this worker's anchors whose most similar view, among this
                worker's only, is their own image's other one; 1 / (2B - 1) at chance.
            embedding: The encoder's output for the first view (B, D), detached; rows of invalid
                samples included.
        """
        images = batch["views"][_GROUP]  # (2, B, 3, S, S)
        num_samples = images.shape[1]
        # Both views in one pass: batch norm then sees one distribution, and the kernels one large
        # batch.
        embedding = self.encoder(images.flatten(0, 1))  # (2B, D)
        projection = self.projection_head(embedding).unflatten(
            0, (2, num_samples)
        )  # (2, B, projection_dim)
        loss = self.objective(projection, valid=batch["valid"])
        bound = self._info_nce_bound(loss.detach(), batch["valid"])
        return {
            "loss": loss,
            **({} if bound is None else {"info_nce_bound": bound}),
            "contrast_top1": _contrast_top1(projection.detach(), batch["valid"]),
            "embedding": embedding[:num_samples].detach(),
        }

    def _info_nce_bound(self, loss: Tensor, valid: Tensor) -> Tensor | None:
        """Return the bound whose mean over workers certifies information; never too high."""
        num_samples = world_size() * valid.sum()
        if self.loss == "nt_xent":
            return health.info_nce_bound(loss, 2 * num_samples - 1)
        return health.info_nce_bound(loss, num_samples) if self.loss == "info_nce" else None


def _objective(config: SimCLRConfig) -> Callable[..., Tensor]:
    """Make the loss of projections (2, B, D) and `valid` (B,)."""
    temperature = config.temperature
    losses: dict[str, Callable[..., Tensor]] = {
        "nt_xent": partial(nt_xent, temperature=temperature),
        "info_nce": partial(_info_nce_both_ways, temperature=temperature),
        "nce": partial(nce, temperature=temperature),
        "contrastive": partial(contrastive, margin=config.margin or 1.0),
        "triplet": partial(triplet, margin=config.margin or 0.2, mining=config.mining),
        "lifted_structured": partial(lifted_structured, margin=config.margin or 1.0),
        "n_pairs": n_pairs,
        "soft_nearest_neighbour": partial(soft_nearest_neighbour, temperature=temperature),
    }
    return losses[config.loss]


def _info_nce_both_ways(z: Tensor, *, temperature: float, valid: Tensor) -> Tensor:
    forth, back = (info_nce(z[i], z[1 - i], temperature=temperature, valid=valid) for i in range(2))
    return (forth + back) / 2


def _contrast_top1(projection: Tensor, valid: Tensor) -> Tensor:
    num_samples = projection.shape[1]
    z = functional.normalize(projection.float(), dim=-1).flatten(0, 1)  # (2B, D)
    anchor_valid = valid.repeat(2)  # (2B,)
    index = torch.arange(2 * num_samples, device=z.device)
    excluded = (
        index.unsqueeze(0) == index.unsqueeze(1)
    ) | ~anchor_valid  # (2B, 2B): itself, and invalid candidates
    nearest = (z @ z.T).masked_fill(excluded, float("-inf")).argmax(dim=1)  # (2B,)
    hits = (nearest == (index + num_samples) % (2 * num_samples)) & anchor_valid
    return hits.sum() / anchor_valid.sum().clamp(min=1)
