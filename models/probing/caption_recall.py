"""Retrieval between images and captions: how often an image's own caption is among the nearest, and
a caption's own image."""

from dataclasses import dataclass
from math import comb

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.probing.resampling import interval_of, resampled_means


@dataclass(frozen=True, eq=False)
class Ranks:
    """Where what belongs to a query stands in its answer, from 0 on.

    Attributes:
        captions: Of each image the first of its own captions among all, (N,) int64.
        images: Of each caption its image among all, (M,) int64.
        owner: Which image each caption is of, (M,) int64.
    """

    captions: NDArray[np.int64]
    images: NDArray[np.int64]
    owner: NDArray[np.int64]


def ranks(similarity: Tensor, owner: Tensor) -> Ranks:
    """Rank captions by images, and images by captions; of equals, the wrong ones come first.

    Args:
        similarity: Of each image with each caption, (N, M).
        owner: Which image each caption is of, (M,) int64; each image has at least one.
    """
    num_images, num_captions = similarity.shape
    own = owner[None] == torch.arange(num_images)[:, None]  # (N, M)
    columns = torch.arange(num_captions)
    right = similarity[owner, columns]  # (M,)
    images = ((similarity >= right) & ~own).sum(0)
    best = similarity.masked_fill(~own, -torch.inf).amax(dim=1, keepdim=True)  # (N, 1)
    captions = ((similarity >= best) & ~own).sum(1)
    return Ranks(captions.numpy(), images.numpy(), owner.numpy())


@dataclass(frozen=True, eq=False)
class Recall:
    """Shares that are found among the first k, of both ways.

    Attributes:
        to_text: Of images one of their captions, by k.
        to_image: Of captions their image, by k.
        resampled: The mean of all of them, of resampled test images, (R,).
        resampled_to_text, resampled_to_image: Each, by k.
    """

    to_text: dict[int, float]
    to_image: dict[int, float]
    resampled: NDArray[np.float64]
    resampled_to_text: dict[int, NDArray[np.float64]]
    resampled_to_image: dict[int, NDArray[np.float64]]

    @property
    def mean(self) -> float:
        """Return the mean over both ways and all k."""
        return float(np.mean([*self.to_text.values(), *self.to_image.values()]))


def recall(found: Ranks, ks: tuple[int, ...]) -> Recall:
    """Score ranks; test images are resampled with all their captions.

    Args:
        found: Of `ranks`.
        ks: Lengths of the answers, each >= 1.
    """
    to_text = {k: (found.captions < k).astype(np.float64) for k in ks}
    to_image = {k: (found.images < k).astype(np.float64) for k in ks}
    # one unit an image each time, so both ways are of the same resampled images
    drawn_text = {k: resampled_means(hits) for k, hits in to_text.items()}
    drawn_image = {k: resampled_means(hits, found.owner) for k, hits in to_image.items()}
    return Recall(
        {k: float(hits.mean()) for k, hits in to_text.items()},
        {k: float(hits.mean()) for k, hits in to_image.items()},
        np.mean([*drawn_text.values(), *drawn_image.values()], axis=0),
        drawn_text,
        drawn_image,
    )


def chance(owner: NDArray[np.int64], num_images: int, k: int) -> tuple[float, float]:
    """Return the shares of images and of captions that are found among the first k of a random
    order.

    Args:
        owner: Which image each caption is of, (M,).
        num_images: N.
        k: Length of the answer.
    """
    num_captions = len(owner)
    own = np.bincount(owner, minlength=num_images)
    drawn = min(k, num_captions)
    none = [comb(num_captions - int(c), drawn) / comb(num_captions, drawn) for c in own]
    return float(1 - np.mean(none)), min(1.0, k / num_images)


def interval(drawn: NDArray[np.float64]) -> list[float]:
    """Return the 95 % interval of resampled shares, for JSON."""
    return list(interval_of(drawn))
