"""How good answers are: shares with intervals, by class, and whether confidence can be trusted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.probes import bootstrap_interval
from models.probing.resampling import Groups, interval_of, resampled_means

WORDS = {
    "top1": "top-1",
    "map50": "mAP50",
    "map": "mAP",
    "miou": "mIoU",
    "j_and_f": "J&F",
    "pck": "PCK",
    "mean_recall": "mean recall",
    "spearman": "Spearman's correlation",
}
"""What people call the main score of a probe, by its key in a result."""
_BINS = 15
_RESAMPLES = 2000


def measure_of(result: Mapping[str, Any]) -> str:
    """Return the key of a result's main score."""
    return next(name for name in WORDS if name in result)


@dataclass(frozen=True)
class ClassScores:
    """Answers of one class an image, judged.

    Attributes:
        top1: Share that is right.
        ci95: Its bootstrap interval over test images.
        per_class: Share of each class's images that is told, NaN of a class without any, (C,).
        confusion: Images of class i told as class j, (C, C) int64.
        calibration_error: Expected calibration error of 15 bins (arXiv:1706.04599): mean distance
            of confidence from the share that is right.
        nll: Mean negative log-likelihood of the right class, nats.
        calibration: Of each bin that holds images: their mean confidence, the share of them that is
            right, and how many they are, (n, 3).
    """

    top1: float
    ci95: tuple[float, float]
    per_class: NDArray[np.float64]
    confusion: NDArray[np.int64]
    calibration_error: float
    nll: float
    calibration: NDArray[np.float64]


def judge_classes(
    probabilities: NDArray[np.float32], labels: NDArray[np.int64], groups: Groups = None
) -> ClassScores:
    """Judge answers of one class an image.

    Args:
        probabilities: (N, C), each row summing to 1.
        labels: The right classes, (N,) in 0..C - 1.
        groups: The group of each image, (N,), of which whole ones are resampled; None: each is its
            own.

    Raises:
        ValueError: no image, or shapes that do not fit.
    """
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or not len(labels):
        raise ValueError(
            f"probabilities must be (N, C) and labels (N,), got {probabilities.shape} and"
            f" {labels.shape}"
        )
    told = probabilities.argmax(1)
    correct = told == labels
    confusion = confusion_of(labels, told, probabilities.shape[1])
    likelihood = probabilities[np.arange(len(labels)), labels]
    bins = _calibration(probabilities.max(1), correct)
    return ClassScores(
        top1=float(correct.mean()),
        ci95=interval_of_share(correct, groups),
        per_class=_diagonal_share(confusion),
        confusion=confusion,
        calibration_error=float(np.abs(bins[:, 0] - bins[:, 1]) @ bins[:, 2] / len(labels)),
        nll=float(-np.log(np.maximum(likelihood, 1e-12)).mean()),
        calibration=bins,
    )


def interval_of_share(correct: NDArray[np.bool_], groups: Groups = None) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a share of right answers.

    Args:
        correct: Whether each image was told rightly, (N,) bool.
        groups: As of `judge_classes`.
    """
    if groups is None:
        return bootstrap_interval(correct)
    return interval_of(resampled_means(correct * 1.0, groups))


def confusion_of(
    labels: NDArray[np.int64], told: NDArray[np.int64], num_classes: int
) -> NDArray[np.int64]:
    """Count how often class i was told as class j, (C, C)."""
    counts = np.bincount(labels * num_classes + told, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def _diagonal_share(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    total = confusion.sum(1).astype(np.float64)
    with np.errstate(invalid="ignore"):
        share: NDArray[np.float64] = np.diag(confusion) / total
    return share


def _calibration(
    confidence: NDArray[np.float32], correct: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return mean confidence, share that is right and images of each bin that holds any."""
    place = np.minimum((confidence * _BINS).astype(np.int64), _BINS - 1)
    size = np.bincount(place, minlength=_BINS)
    claimed = np.bincount(place, confidence, minlength=_BINS)
    right = np.bincount(place, correct, minlength=_BINS)
    held = size > 0
    return np.stack([claimed[held] / size[held], right[held] / size[held], size[held]], axis=1)


def average_precision(scores: NDArray[np.float32], positive: NDArray[np.bool_]) -> float:
    """Return the mean precision at the place of each positive in the ranking by score.

    Of equal scores the least favourable order counts, so a constant earns no luck. NaN where there
    is no positive.

    Args:
        scores: (N,), higher first.
        positive: (N,) bool.
    """
    order = np.lexsort((positive, -scores))
    ranked = positive[order]
    if not ranked.any():
        return float("nan")
    hits = np.cumsum(ranked)
    precision = hits / np.arange(1, len(ranked) + 1)
    return float(precision[ranked].mean())


def paired_difference(
    first: NDArray[np.bool_],
    second: NDArray[np.bool_],
    *,
    groups: Groups = None,
    seed: int = 0,
) -> tuple[float, tuple[float, float]]:
    """Return by how much the second's share of right answers is higher, with its interval.

    The same resampled images judge both, which is what makes small differences tell.

    Args:
        first: Whether each image was told rightly, (N,) bool.
        second: The same images, told otherwise.
        groups: As of `judge_classes`.
        seed: Of the resampling.

    Raises:
        ValueError: shapes that do not fit.
    """
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(f"both must be (N,) with N >= 1, got {first.shape} and {second.shape}")
    gained = float((second & ~first).mean())
    lost = float((first & ~second).mean())
    if groups is not None:
        return gained - lost, interval_of(resampled_means(second * 1.0 - first, groups))
    shares = [gained, lost, max(0.0, 1 - gained - lost)]
    drawn = np.random.default_rng(seed).multinomial(len(first), shares, _RESAMPLES * 5)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / len(first), [0.025, 0.975])
    return gained - lost, (float(low), float(high))
