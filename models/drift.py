"""How far a set of embeddings lies from another, and whether chance explains it."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

_CHUNK = 256  # permutations at a time


@dataclass(frozen=True)
class Distance:
    """How far two sets of embeddings lie apart.

    Attributes:
        mmd: Maximum mean discrepancy (Gretton et al., JMLR 2012), the root of its unbiased square:
            0 for equal distributions, at most about 1.4 for sets without any likeness.
        p_value: Share of random splits of both sets together that lie as far apart.
    """

    mmd: float
    p_value: float


@torch.no_grad()
def distance(old: Tensor, new: Tensor, *, permutations: int = 500, seed: int = 0) -> Distance:
    """Measure the maximum mean discrepancy of two sets of directions, with a permutation test.

    The kernel is Gaussian on unit vectors; its width is the median distance of the old ones to each
    other, so that the scale is that of the known corpus and no outlier sets it.

    Args:
        old: Embeddings (N, D), N >= 2, any float dtype.
        new: (M, D), M >= 2.
        permutations: Random splits.
        seed: Of the splits.

    Raises:
        ValueError: fewer than two of either.
    """
    if len(old) < 2 or len(new) < 2:
        raise ValueError(f"at least two embeddings of each are needed, got {len(old)}, {len(new)}")
    both = functional.normalize(torch.cat([old, new]).float(), dim=-1)
    squared = (2 - 2 * both @ both.T).clamp(min=0)
    known = squared[: len(old), : len(old)]
    apart = known[~torch.eye(len(old), dtype=torch.bool)]
    width = apart.median().clamp(min=torch.finfo(apart.dtype).tiny)
    kernel = (-squared / width).exp().double()
    kernel.fill_diagonal_(0)
    is_new = torch.zeros(len(both), dtype=torch.float64)
    is_new[len(old) :] = 1
    found = _squares(kernel, is_new[:, None])[0]
    generator = torch.Generator().manual_seed(seed)
    as_far = 0
    for start in range(0, permutations, _CHUNK):
        size = min(_CHUNK, permutations - start)
        orders = torch.rand(size, len(both), generator=generator).argsort(1)
        as_far += int((_squares(kernel, is_new[orders].T) >= found).sum())
    return Distance(float(found.clamp(min=0).sqrt()), (as_far + 1) / (permutations + 1))


def _squares(kernel: Tensor, is_new: Tensor) -> Tensor:
    """Return the unbiased squared discrepancy of splits.

    Args:
        kernel: (N + M, N + M) with a diagonal of zeros.
        is_new: (N + M, S), 1 for what is new and 0 else.
    """
    num_new = is_new[:, :1].sum()
    num_old = len(is_new) - num_new
    to_new = kernel @ is_new
    within_new = (is_new * to_new).sum(0)
    across = to_new.sum(0) - within_new
    within_old = kernel.sum() - within_new - 2 * across
    squares: Tensor = (
        within_new / (num_new * (num_new - 1))
        + within_old / (num_old * (num_old - 1))
        - 2 * across / (num_new * num_old)
    )
    return squares


def occupancy(label: np.ndarray, num_clusters: int) -> np.ndarray:
    """Return the share of points in each cluster, (K,) float64.

    Args:
        label: (N,) int64, N >= 1.
        num_clusters: K.
    """
    return np.bincount(label, minlength=num_clusters) / len(label)


def shift(before: np.ndarray, after: np.ndarray) -> float:
    """Return the share of points that must change their cluster to turn one occupancy into the
    other: the total variation distance, 0 to 1."""
    return float(np.abs(before - after).sum() / 2)
