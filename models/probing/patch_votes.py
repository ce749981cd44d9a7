"""Masks without training: the nearest labelled patches tell the class of each place."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.probing.neighbours import knn_votes

_NUM_BINS = 8


def shares_of(mask: Tensor, grid: tuple[int, int], num_classes: int) -> Tensor:
    """Return which share of each patch's labelled pixels is of each class.

    Args:
        mask: Class indices, (B, S, S) uint8; what is not below `num_classes` is not labelled.
        grid: Rows and columns of patches, (h, w).
        num_classes: C.

    Returns:
        (B, h * w, C) float32 summing to 1, or 0 where no pixel is labelled.
    """
    parts = [
        functional.adaptive_avg_pool2d((mask == one).float()[:, None], grid)
        for one in range(num_classes)
    ]
    shares = torch.cat(parts, 1).flatten(2).transpose(1, 2)  # (B, h*w, C)
    return shares / shares.sum(2, keepdim=True).clamp(min=1e-6)


def choose_patches(
    labelled: NDArray[np.bool_], keys: NDArray[np.int64], *, most: int, seed: int
) -> NDArray[np.bool_]:
    """Choose at most so many labelled patches of each image, by its key alone.

    Args:
        labelled: Whether a patch has a labelled pixel, (B, N).
        keys: What names each image, (B,).
        most: Patches an image.
        seed: Another one gives another choice.
    """
    chosen = np.zeros_like(labelled)
    for row, key in enumerate(keys.tolist()):
        there = np.flatnonzero(labelled[row])
        # an image's draw must not depend on its batch
        shuffled = np.random.default_rng([seed, key & (2**63 - 1)]).permutation(there)
        chosen[row, shuffled[:most]] = True
    return chosen


def patch_scores(
    memory: Tensor,
    shares: Tensor,
    maps: Tensor,
    size: int,
    *,
    ks: Sequence[int],
    temperature: float,
) -> Tensor:
    """Score the pixels of images by the nearest patches of a memory (arXiv:2306.01667).

    Args:
        memory: Features of labelled patches, (P, D).
        shares: Their classes, (P, C).
        maps: Features of the images, (B, D, h, w).
        size: S, their side in pixels.
        ks: Neighbours that vote.
        temperature: Of the vote.

    Returns:
        (len(ks), B, C, S, S) float32.
    """
    num_images, _, height, width = maps.shape
    places = maps.flatten(2).transpose(1, 2).flatten(0, 1)  # (B*h*w, D)
    num_classes = shares.shape[1]
    votes = knn_votes(
        memory, shares, places, ks=ks, temperature=temperature, num_classes=num_classes
    )
    grid = votes.view(len(ks) * num_images, height, width, num_classes).permute(0, 3, 1, 2)
    large = functional.interpolate(grid, size=(size, size), mode="bilinear", align_corners=False)
    return large.view(len(ks), num_images, num_classes, size, size)


def colour_maps(images: Tensor, grid: tuple[int, int]) -> Tensor:
    """Describe each patch by its colours alone: mean, deviation and histogram of each channel.

    Args:
        images: (B, 3, S, S) uint8.
        grid: Rows and columns of patches, (h, w).

    Returns:
        (B, 30, h, w) float32, in 0..1.
    """
    unit = images.float() / 255
    mean = functional.adaptive_avg_pool2d(unit, grid)
    square = functional.adaptive_avg_pool2d(unit * unit, grid)
    bins = [
        functional.adaptive_avg_pool2d((images >> 5 == one).float(), grid)
        for one in range(_NUM_BINS)
    ]
    return torch.cat([mean, (square - mean * mean).clamp(min=0).sqrt(), *bins], 1)
