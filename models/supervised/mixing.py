"""Mixtures of labelled samples: mixup (arXiv:1710.09412) and CutMix (arXiv:1905.04899).

A sample is mixed with the next readable one of its batch, so what could not be read is in no
mixture. How is drawn for each sample by its key. Which sample is the next depends on the batch that
a worker holds: two workers mix otherwise than one does.
"""

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from augment import rng
from augment.frozen import Frozen
from models.method import Batch

_STEPS = 4096


class MixingConfig(Frozen):
    """How labels are smoothed and samples mixed."""

    label_smoothing: float = Field(
        0.1, ge=0, lt=1, description="finetune: share of a label given to all classes"
    )
    mixup: float = Field(
        0.0,
        ge=0,
        description=(
            "finetune: alpha of mixup, with the next readable sample of a worker's batch, so that"
            " another number of workers mixes otherwise; 0: none"
        ),
    )
    cutmix: float = Field(
        0.0,
        ge=0,
        description="finetune: alpha of CutMix, likewise; each sample gets one of both; 0: none",
    )


class Mixing(nn.Module):
    """Mixes the samples of a batch, and their targets in proportion.

    Args:
        config: How; at least one of mixup and CutMix.
        seed: The run's.
    """

    quantiles: Tensor
    cuts: Tensor

    def __init__(self, config: MixingConfig, seed: int) -> None:
        super().__init__()
        self.seed = seed
        alphas = {"mixup": config.mixup, "cutmix": config.cutmix}
        ways = [name for name, alpha in alphas.items() if alpha]
        table = torch.stack([_beta_quantiles(alphas[name]) for name in ways])
        self.register_buffer("quantiles", table, persistent=False)  # (ways, _STEPS + 1)
        cuts = torch.tensor([name == "cutmix" for name in ways])
        self.register_buffer("cuts", cuts, persistent=False)

    def forward(self, images: Tensor, target: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mix each valid sample with the next valid one; the others stay as they are.

        Args:
            images: (B, 3, S, S), or clips (B, T, 3, S, S), of which all frames are mixed alike.
            target: (B, C) float.
            batch: What they are of.

        Returns:
            Both mixed.
        """
        drawn = rng.uniform(
            4,
            seed=self.seed,
            epoch=batch["epoch"],
            sample_id=batch["sample_id"],
            view=0,
            op="mixing",
        )
        way = (drawn[:, 0] * len(self.cuts)).long()
        share = self._shares(way, drawn[:, 1])
        inside = _boxes(1 - share, drawn[:, 2:], images.shape[-1])  # (B, S, S)
        own = torch.where(self.cuts[way][:, None, None], (~inside).float(), share[:, None, None])
        own = own.where(batch["valid"][:, None, None], 1.0)
        partner = _next_valid(batch["valid"])
        target = torch.lerp(target[partner], target, own.mean((1, 2))[:, None])
        own = own.to(images.dtype).view(len(own), *[1] * (images.ndim - 3), *own.shape[1:])
        return torch.lerp(images[partner], images, own), target

    def _shares(self, way: Tensor, drawn: Tensor) -> Tensor:
        """Return how much of each sample stays, (B,): the quantiles of its way's distribution."""
        place = drawn * _STEPS
        below = place.long()
        first = way * (_STEPS + 1) + below
        table = self.quantiles.flatten()
        return torch.lerp(table[first], table[first + 1], place - below)


def _beta_quantiles(alpha: float) -> Tensor:
    """Return the quantiles of Beta(alpha, alpha) at 0, 1 / _STEPS, ... 1."""
    from scipy.special import betaincinv  # here, as nothing else of training needs it

    return torch.from_numpy(betaincinv(alpha, alpha, np.arange(_STEPS + 1) / _STEPS)).float()


def _boxes(area: Tensor, centre: Tensor, side: int) -> Tensor:
    """Tell which pixels lie in a square of some share of the area, cut off at the edges, (B, S, S).

    Args:
        area: (B,), in 0..1.
        centre: (B, 2), in 0..1.
        side: S, in px.
    """
    pixel = (torch.arange(side, device=area.device) + 0.5) / side
    near = (pixel - centre[..., None]).abs() < area.sqrt()[:, None, None] / 2  # (B, 2, S)
    return near[:, 0, :, None] & near[:, 1, None, :]


def _next_valid(valid: Tensor) -> Tensor:
    """Return the place of the next valid sample, the first after the last, (B,) int64; of one that
    is not valid its own."""
    place = torch.arange(len(valid), device=valid.device)
    order = valid.logical_not().to(torch.uint8).argsort(stable=True)  # the valid ones first
    follower = torch.where(place + 1 < valid.sum(), place + 1, 0)
    following = torch.empty_like(place).scatter(0, order, order[follower])
    return following.where(valid, place)
