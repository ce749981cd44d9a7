"""Scores of resampled test sets: intervals, and those of paired differences.

Every function draws the same test sets for the same number of samples, so two encoders' scores are
paired: the interval of their difference is that of the differences of what is returned here.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
_AT_ONCE = 8_000_000  # counts
_WORK = 400_000_000  # counts times classes, of mean average precision


def times_drawn(num: int, resamples: int, seed: int = 0) -> Iterator[NDArray[np.float64]]:
    """Yield how often each of so many samples is drawn, (r, num), until there are enough."""
    generator = np.random.default_rng(seed)
    rows = max(1, _AT_ONCE // num)
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        yield generator.multinomial(num, np.full(num, 1 / num), size).astype(np.float64)


def resampled_means(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the means of resampled values (N,), (R,)."""
    drawn = [times @ values for times in times_drawn(len(values), RESAMPLES)]
    means: NDArray[np.float64] = np.concatenate(drawn) / len(values)
    return means


def resampled_map(scores: NDArray[np.floating], hot: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the mean average precision of resampled images.

    Args:
        scores: (N, C), higher first.
        hot: Which classes each image has, (N, C).

    Returns:
        (R,), with fewer R where there are many images and classes.
    """
    size = hot.shape[0] * max(1, hot.shape[1])
    resamples = int(np.clip(_WORK // size, 200, RESAMPLES))
    orders = [np.lexsort((hot[:, i], -scores[:, i])) for i in range(hot.shape[1])]
    drawn = []
    for times in times_drawn(len(hot), resamples):
        by_class = [_weighted_ap(times[:, o], hot[o, i]) for i, o in enumerate(orders)]
        with np.errstate(invalid="ignore"):
            drawn.append(np.nanmean(np.stack(by_class), axis=0))
    return np.concatenate(drawn)


def _weighted_ap(times: NDArray[np.float64], ranked: NDArray[np.bool_]) -> NDArray[np.float64]:
    positive = times * ranked  # (r, N)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.cumsum(positive, 1) / np.cumsum(times, 1)
        found = (np.where(positive > 0, precision, 0) * positive).sum(1) / positive.sum(1)
    return np.asarray(found, dtype=np.float64)


def interval_of(drawn: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % percentile interval of resampled scores, NaN left out."""
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def over_draws(values: NDArray[np.floating]) -> tuple[float, tuple[float, float]]:
    """Return the mean over draws of training samples and over test samples, with its 95 % interval.

    Both sources of chance count: Student's t over the draws, and the normal one over the test
    samples. With one draw, the second alone.

    Args:
        values: Of each draw and test sample, (R, N): whether it was right, or by how much two
            encoders differ there.
    """
    num_draws, num_samples = values.shape
    by_draw = values.mean(1, dtype=np.float64)
    by_sample = values.mean(0, dtype=np.float64)
    half = 1.96 * by_sample.std() / np.sqrt(num_samples)
    if num_draws > 1:
        from scipy.special import stdtrit  # here, as telling one image needs none of it

        spread = by_draw.std(ddof=1) / np.sqrt(num_draws)
        half = float(np.hypot(half, stdtrit(num_draws - 1, 0.975) * spread))
    mean = float(by_draw.mean())
    return mean, (mean - float(half), mean + float(half))
