"""Residual branches that are left out at random."""

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """Leave a branch out for a share of the samples in training, and raise the others' to keep the
    mean (stochastic depth, arXiv:1603.09382).

    Args:
        share: Of the samples, in [0, 1).
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, branch: Tensor) -> Tensor:
        """Drop samples of a branch (B, ...)."""
        if not self.training or self.share == 0:
            return branch
        kept = torch.rand(len(branch), device=branch.device) >= self.share  # (B,)
        scale = (kept / (1 - self.share)).to(branch.dtype)
        return branch * scale.view(-1, *[1] * (branch.ndim - 1))
