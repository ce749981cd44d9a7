"""How well masks tell the class of each pixel."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.probing.resampling import RESAMPLES, Groups, interval_of, times_drawn


@dataclass(frozen=True)
class MaskScores:
    """Answers of a class a pixel, judged.

    Attributes:
        miou: Mean over the classes that occur of intersection over union.
        ci95: Its bootstrap interval over test images.
        per_class: Intersection over union of each class, NaN of one that does not occur, (C,).
        pixel_top1: Share of the pixels that is right.
        confusion: Pixels of class i told as class j, over all images, (C, C) int64.
        resampled: miou of resampled images, (R,).
    """

    miou: float
    ci95: tuple[float, float]
    per_class: NDArray[np.float64]
    pixel_top1: float
    confusion: NDArray[np.int64]
    resampled: NDArray[np.float64]


def judge_masks(
    confusions: NDArray[np.int64], groups: Groups = None, *, seed: int = 0
) -> MaskScores:
    """Judge masks by how their pixels were told.

    Args:
        confusions: Pixels of class i told as class j in each image, (N, C, C).
        groups: The group of each image, (N,), of which whole ones are resampled; None: each is its
            own.
        seed: Of the resampling.

    Raises:
        ValueError: no image.
    """
    whole = _added(confusions)
    drawn = resampled_miou(confusions, groups, seed=seed)
    return MaskScores(
        miou=float(mean_iou(whole[None])[0]),
        ci95=interval_of(drawn),
        per_class=_iou(whole[None])[0],
        pixel_top1=float(np.trace(whole) / max(whole.sum(), 1)),
        confusion=confusions.sum(0),
        resampled=drawn,
    )


def miou_of(confusions: NDArray[np.int64]) -> float:
    """Return the mean intersection over union alone, of (N, C, C), without its interval.

    Raises:
        ValueError: no image.
    """
    return float(mean_iou(_added(confusions)[None])[0])


def _added(confusions: NDArray[np.int64]) -> NDArray[np.float64]:
    if confusions.ndim != 3 or not len(confusions):
        raise ValueError(f"confusions must be (N, C, C) with N >= 1, got {confusions.shape}")
    added: NDArray[np.float64] = confusions.sum(0).astype(np.float64)
    return added


def resampled_miou(
    confusions: NDArray[np.int64], groups: Groups = None, *, seed: int = 0
) -> NDArray[np.float64]:
    """Return the mean intersection over union of resampled images, (R,).

    Args:
        confusions: Pixels of class i told as class j in each image, (N, C, C).
        groups: The group of each image, (N,), of which whole ones are resampled; None: each is its
            own.
        seed: Of the resampling.
    """
    flat = confusions.reshape(len(confusions), -1).astype(np.float64)
    drawn = [times @ flat for times in times_drawn(len(confusions), RESAMPLES, seed, groups)]
    return mean_iou(np.concatenate(drawn).reshape(-1, *confusions.shape[1:]))


def _iou(confusions: NDArray[Any]) -> NDArray[np.float64]:
    """Return intersection over union by class, (R, C); NaN where neither occurs."""
    hit = np.diagonal(confusions, axis1=1, axis2=2)
    union = confusions.sum(1) + confusions.sum(2) - hit
    with np.errstate(invalid="ignore", divide="ignore"):
        iou: NDArray[np.float64] = hit / union
    return np.where(confusions.sum(2) > 0, iou, np.nan)


def mean_iou(confusions: NDArray[Any]) -> NDArray[np.float64]:
    """Return the mean over the classes that occur of intersection over union, (R,) of (R, C, C)."""
    mean: NDArray[np.float64] = np.nanmean(_iou(confusions), axis=1)
    return mean


def confusions(mask: Tensor, told: Tensor) -> Tensor:
    """Count how pixels were told, those of no class left out.

    Args:
        mask: (B, S, S) uint8.
        told: (B, C, S, S).

    Returns:
        (B, C * C) int32.
    """
    num_images, num_classes = told.shape[:2]
    right = mask.flatten(1).long()
    labelled = right < num_classes
    place = right * num_classes + told.argmax(1).flatten(1)
    place = torch.where(labelled, place, num_classes**2)
    counts = torch.zeros(num_images, num_classes**2 + 1, dtype=torch.int32, device=mask.device)
    counts.scatter_add_(1, place, torch.ones_like(place, dtype=torch.int32))
    return counts[:, :-1]
