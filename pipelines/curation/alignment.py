"""Tells whether two small pictures are of one original: cut by up to some 5 % a side, mirrored,
resized or encoded anew.

Each is laid over the other, upright and mirrored, with every combination of a few cuts at its
sides; the score is the greatest correlation of their details (what a blur takes away) over all of
these. Of 45,000 pairs of different photographs, aerial or web images, none had more than 0.62; of
copies that were cut, 95 % had more than 0.8.
"""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

SIDE = 32  # px
BLUR = 5  # px, a square's mean
CUTS = ((0.0, 0.0), (0.025, 0.025), (0.05, 0.0), (0.0, 0.05), (0.05, 0.05), (0.025, 0), (0, 0.025))
BLOCK_PAIRS = 32  # 6 MB of shifted pictures each way
LEAST_RESEMBLANCE = 0.3  # of whole pictures
POOL = 4  # px, for that
FLAT = 2  # grey levels that rounding makes
_TINY = 1e-6


def alike(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Score pairs of pictures.

    Args:
        first: (P, 32, 32) uint8, whole pictures squeezed into a square, grey.
        second: (P, 32, 32) uint8.

    Returns:
        (P,) float32, -1 to 1; 0 for pictures that do not even resemble each other as a whole, 1
        for two of the same grey all over.
    """
    scores = np.zeros(len(first), np.float32)
    for start in range(0, len(first), BLOCK_PAIRS):
        a = _tensor(first[start : start + BLOCK_PAIRS])
        b = _tensor(second[start : start + BLOCK_PAIRS])
        close = torch.nonzero(_resemblance(a, b) >= LEAST_RESEMBLANCE)[:, 0]
        a = _details(a[close])
        b = _details(b[close])
        # whichever of the two was cut
        best = torch.maximum(_best(a, b), _best(b, a))
        scores[start + close.numpy()] = best.numpy()
    scores[_flat(first) & _flat(second) & _same_grey(first, second)] = 1
    return scores


def _flat(pictures: np.ndarray) -> np.ndarray:
    """Tell pictures of one grey all over, (P,) bool."""
    flat: np.ndarray = np.ptp(pictures, axis=(1, 2)) <= FLAT
    return flat


def _same_grey(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    means = (some.mean((1, 2), dtype=np.float64) for some in (first, second))
    same: np.ndarray = np.abs(np.subtract(*means)) <= FLAT
    return same


def _tensor(pictures: np.ndarray) -> Tensor:
    return torch.tensor(np.ascontiguousarray(pictures), dtype=torch.float32)


def _resemblance(first: Tensor, second: Tensor) -> Tensor:
    """Correlate pictures as they lie, a fourth as large, upright and mirrored; the
    better of each pair (P,)."""
    small, other = (functional.avg_pool2d(some[:, None], POOL)[:, 0] for some in (first, second))
    a, upright, mirrored = (_unit(some) for some in (small, other, other.flip(-1)))
    return torch.maximum((a * upright).sum((1, 2)), (a * mirrored).sum((1, 2)))


def _unit(pictures: Tensor) -> Tensor:
    """Scale pictures (..., 32, 32) to the mean 0 and the length 1."""
    centred = pictures - pictures.mean((-1, -2), keepdim=True)
    length = centred.flatten(-2).norm(dim=-1)[..., None, None]
    scaled: Tensor = centred / length.clamp(min=_TINY) * (length > 1)  # less is rounding
    return scaled


def _best(cut: Tensor, whole: Tensor) -> Tensor:
    """Correlate every cut of the one pictures with the others, upright and mirrored; the best of
    each pair (P,)."""
    rows = torch.einsum("hij,pjk->phik", _cuts(), cut)
    shown = torch.einsum("gkl,phil->phgik", _cuts(), rows).flatten(1, 2)  # (P, cuts^2, 32, 32)
    shown = _unit(shown).flatten(2)
    both = torch.stack([whole, whole.flip(-1)], dim=1)  # (P, 2, 32, 32)
    return torch.bmm(shown, _unit(both).flatten(2).mT).flatten(1).amax(1)


def _details(pictures: Tensor) -> Tensor:
    """Return what a blur takes away of pictures (P, 32, 32)."""
    padded = functional.pad(pictures[:, None], [BLUR // 2] * 4, mode="replicate")
    return pictures - functional.avg_pool2d(padded, BLUR, stride=1)[:, 0]


@lru_cache(maxsize=1)
def _cuts() -> Tensor:
    """Return the maps (C, 32, 32) that stretch what is left of a line, once its ends are cut, to
    its whole length again."""
    maps = np.zeros((len(CUTS), SIDE, SIDE), np.float32)
    for one, (before, behind) in zip(maps, CUTS, strict=True):
        at = (before + (1 - before - behind) * (np.arange(SIDE) + 0.5) / SIDE) * SIDE - 0.5
        left = np.clip(np.floor(at).astype(int), 0, SIDE - 2)
        weight = np.clip(at - left, 0, 1)
        one[np.arange(SIDE), left] = 1 - weight
        one[np.arange(SIDE), left + 1] += weight
    return torch.from_numpy(maps)
