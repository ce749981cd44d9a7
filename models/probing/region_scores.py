"""How well masks and key points are followed through a video: J and F as DAVIS defines them
(Perazzi 2016; Pont-Tuset 2017, arXiv:1704.00675), and PCK."""

import math

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def region_overlap(told: Mask, truth: Mask, void: Mask | None = None) -> float:
    """Return J, the intersection over union of two masks; 1 where both are empty.

    Args:
        told, truth: (H, W) bool.
        void: Pixels that are not judged, (H, W) bool.
    """
    told, truth = _judged(told, truth, void)
    union = int((told | truth).sum())
    return 1.0 if not union else int((told & truth).sum()) / union


def boundary_agreement(
    told: Mask, truth: Mask, void: Mask | None = None, *, tolerance: float = 0.008
) -> float:
    """Return F, the harmonic mean of how much of the told boundary lies near the true one and of
    the true one near the told one.

    A mask without a boundary (empty, or the whole picture) tells nothing wrong and nothing right:
    two of them agree wholly, one of them not at all.

    Args:
        told, truth: (H, W) bool.
        void: Pixels that are not judged, (H, W) bool; objects end there.
        tolerance: How far apart boundaries may lie, as a share of the picture's diagonal, rounded
            up to whole px.
    """
    told, truth = _judged(told, truth, void)
    told_line, true_line = boundary(told), boundary(truth)
    if not told_line.any() or not true_line.any():
        return float(told_line.any() == true_line.any())
    radius = math.ceil(tolerance * math.hypot(*truth.shape))
    precision = _share_near(told_line, true_line, radius)
    recall = _share_near(true_line, told_line, radius)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def boundary(mask: Mask) -> Mask:
    """Find the pixels that differ from the one to their right, below or diagonally below, (H, W);
    the picture's own edge is no boundary."""
    wide = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    here = wide[:-1, :-1]
    right = wide[:-1, 1:]
    below = wide[1:, :-1]
    return np.asarray((here != right) | (here != below) | (here != wide[1:, 1:]))


def _share_near(line: Mask, other: Mask, radius: int) -> float:
    """Return the share of a line's pixels that have one of another line within a radius, px."""
    from scipy.ndimage import distance_transform_edt  # here, as no other probe needs it

    return float((distance_transform_edt(~other)[line] <= radius).mean())


def _judged(told: Mask, truth: Mask, void: Mask | None) -> tuple[Mask, Mask]:
    if told.shape != truth.shape:
        raise ValueError(f"masks must be of one size, got {told.shape} and {truth.shape}")
    return (told, truth) if void is None else (told & ~void, truth & ~void)


def points_found(
    told: NDArray[np.float64], truth: NDArray[np.float64], alphas: tuple[float, ...]
) -> NDArray[np.bool_]:
    """Tell which key points of a frame are found (PCK, Yang & Ramanan 2013): nearer to the true
    place than a share of the longer side of the box around the frame's true points.

    Args:
        told: (K, 2) x and y in px.
        truth: (K, 2), all of them there, at least two.
        alphas: The shares.

    Returns:
        (len(alphas), K).
    """
    side = float(np.ptp(truth, axis=0).max())
    distance = np.hypot(*(told - truth).T)
    return np.stack([distance <= alpha * side for alpha in alphas])
