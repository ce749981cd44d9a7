"""How well the likeness of embeddings agrees with what people say of pairs."""

import numpy as np
from numpy.typing import NDArray

from models.probing.resampling import RESAMPLES, Groups, times_drawn


def cosines(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the cosine of each pair of vectors (N, D), (N,); 0 where one has no direction."""
    first, second = (np.asarray(one, np.float64) for one in (first, second))
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    products: NDArray[np.float64] = (first * second).sum(axis=1)
    found: NDArray[np.float64] = np.divide(
        products, lengths, out=np.zeros_like(products), where=lengths > 0
    )
    return found


def spearman(alike: NDArray[np.floating], score: NDArray[np.floating]) -> float:
    """Return the correlation of two orders of N things; equal values share their mean rank.

    0 where all values of either are equal.
    """
    return float(_of_rows(alike[None], score[None])[0])


def resampled_spearman(
    alike: NDArray[np.floating], score: NDArray[np.floating], groups: Groups = None
) -> NDArray[np.float64]:
    """Return the correlations of resampled pairs, (R,).

    Args:
        alike: (N,).
        score: (N,).
        groups: The group of each pair, (N,); None: each is its own.
    """
    drawn = list[NDArray[np.float64]]()
    for times in times_drawn(len(alike), RESAMPLES, groups=groups):
        for counts in times.astype(np.int64):
            chosen = np.repeat(np.arange(len(alike)), counts)
            drawn.append(_of_rows(alike[chosen][None], score[chosen][None]))
    return np.concatenate(drawn)


def _of_rows(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    from scipy.stats import rankdata  # here, as it takes a second to import

    ranks = [np.asarray(rankdata(one, axis=1), np.float64) for one in (first, second)]
    centred = [one - one.mean(axis=1, keepdims=True) for one in ranks]
    lengths = np.prod([np.linalg.norm(one, axis=1) for one in centred], axis=0)
    products = (centred[0] * centred[1]).sum(axis=1)
    found: NDArray[np.float64] = np.divide(
        products, lengths, out=np.zeros_like(products), where=lengths > 0
    )
    return found
