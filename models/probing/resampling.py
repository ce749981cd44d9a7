"""Scores of resampled test sets: intervals, and those of paired differences.

Every function draws the same test sets for the same number of samples, so two encoders' scores are
paired: the interval of their difference is that of the differences of what is returned here.

Samples of one group, as the frames of a video, are not independent: where groups are given, whole
groups are drawn, as many as there are.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Groups = NDArray[np.int64] | None

RESAMPLES = 2000
_AT_ONCE = 8_000_000  # counts
_WORK = 400_000_000  # counts times classes, of mean average precision


def times_drawn(
    num: int, resamples: int, seed: int = 0, groups: Groups = None
) -> Iterator[NDArray[np.float64]]:
    """Yield how often each of so many samples is drawn, (r, num), until there are enough.

    Args:
        num: N.
        resamples: R.
        seed: Of the draws.
        groups: The group of each sample, (N,); None: each is its own.
    """
    generator = np.random.default_rng(seed)
    names, own = (None, None) if groups is None else np.unique(groups, return_inverse=True)
    units = num if names is None else len(names)
    rows = max(1, _AT_ONCE // num)
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        times = generator.multinomial(units, np.full(units, 1 / units), size).astype(np.float64)
        yield times if own is None else times[:, own]


def resampled_means(values: NDArray[np.floating], groups: Groups = None) -> NDArray[np.float64]:
    """Return the means of resampled values (N,), (R,)."""
    drawn = [
        times @ values / times.sum(1)
        for times in times_drawn(len(values), RESAMPLES, groups=groups)
    ]
    means: NDArray[np.float64] = np.concatenate(drawn)
    return means


def resampled_map(
    scores: NDArray[np.floating], hot: NDArray[np.bool_], groups: Groups = None
) -> NDArray[np.float64]:
    """Return the mean average precision of resampled images.

    Args:
        scores: (N, C), higher first.
        hot: Which classes each image has, (N, C).
        groups: The group of each image, (N,); None: each is its own.

    Returns:
        (R,), with fewer R where there are many images and classes.
    """
    size = hot.shape[0] * max(1, hot.shape[1])
    resamples = int(np.clip(_WORK // size, 200, RESAMPLES))
    orders = [np.lexsort((hot[:, i], -scores[:, i])) for i in range(hot.shape[1])]
    drawn = []
    for times in times_drawn(len(hot), resamples, groups=groups):
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


def over_draws(
    values: NDArray[np.floating], groups: Groups = None
) -> tuple[float, tuple[float, float]]:
    """Return the mean over draws of training samples and over test samples, with its 95 % interval.

    Both sources of chance count: Student's t over the draws, and the normal one over the test
    samples. With one draw, the second alone.

    Args:
        values: Of each draw and test sample, (R, N): whether it was right, or by how much two
            encoders differ there.
        groups: The group of each test sample, (N,); None: each is its own.
    """
    num_draws, num_samples = values.shape
    by_draw = values.mean(1, dtype=np.float64)
    by_sample = values.mean(0, dtype=np.float64)
    own = np.arange(num_samples) if groups is None else np.unique(groups, return_inverse=True)[1]
    of_groups = np.bincount(own, by_sample - by_sample.mean())
    half = 1.96 * np.sqrt(np.square(of_groups).sum()) / num_samples
    if num_draws > 1:
        from scipy.special import stdtrit  # here, as telling one image needs none of it

        spread = by_draw.std(ddof=1) / np.sqrt(num_draws)
        half = float(np.hypot(half, stdtrit(num_draws - 1, 0.975) * spread))
    mean = float(by_draw.mean())
    return mean, (mean - float(half), mean + float(half))
