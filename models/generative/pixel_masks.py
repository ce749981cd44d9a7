"""Regions of an image that are hidden, in pixels: the three shapes of context encoders
(arXiv:1604.07379, figure 3)."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from augment import rng

Shape = Literal["central", "blocks", "region"]

_LARGEST = 1 / 4  # share of the image that is hidden at most
_NUM_BLOCKS = 8
_BLOCK_SIDES = (1 / 8, 3 / 8)  # of a block, as shares of the image's side
_SMALLEST_REGION = 1 / 8  # share of the image that a region hides at least
_KNOTS = 5  # rows and columns of the noise of which regions are made


def hidden_pixels(
    shape: Shape, size: int, *, seed: int, epoch: Tensor, sample_id: Tensor
) -> Tensor:
    """Draw which pixels of each image are hidden, keyed by the sample.

    Args:
        shape: "central" is the middle square of a quarter of the area, the same for all; "blocks"
            are up to eight rectangles that may overlap, together at most a quarter; "region" is
            what a smooth noise hides above a level: shapes without straight borders, an eighth to a
            quarter. (The paper cuts regions along the outlines of labelled objects of other
            images; noise needs no labels.)
        size: Side of the images, px.
        seed: The run's seed.
        epoch: (B,) int64.
        sample_id: (B,) int64.

    Returns:
        (B, 1, size, size) bool, true where hidden, on sample_id's device.
    """
    if shape == "central":
        return _central(size, sample_id).expand(len(sample_id), 1, size, size)
    draw = _blocks if shape == "blocks" else _regions
    numbers = 4 * _NUM_BLOCKS if shape == "blocks" else 1 + _KNOTS**2
    u = rng.uniform(numbers, seed=seed, epoch=epoch, sample_id=sample_id, view=0, op=shape)
    return draw(u, size)


def widen(hidden: Tensor, by: int) -> Tensor:
    """Grow hidden pixels (B, 1, S, S) by some pixels on every side."""
    if by == 0:
        return hidden
    return functional.max_pool2d(hidden.float(), 2 * by + 1, stride=1, padding=by) > 0


def _central(size: int, like: Tensor) -> Tensor:
    margin = size // 4
    place = torch.arange(size, device=like.device)
    inside = (place >= margin) & (place < size - margin)
    return inside.unsqueeze(1) & inside


def _blocks(u: Tensor, size: int) -> Tensor:
    """Take blocks in their order until the next would hide more than a quarter; always the
    first."""
    low, high = _BLOCK_SIDES
    wide = u.view(-1, 4, _NUM_BLOCKS)
    sides = ((low + (high - low) * wide[:, :2]) * size).round()  # (B, 2, K)
    begin = (wide[:, 2:] * (size - sides + 1)).floor()
    place = torch.arange(size, device=u.device)
    # (B, 2, K, S)
    inside = (place >= begin.unsqueeze(-1)) & (place < (begin + sides).unsqueeze(-1))
    blocks = inside[:, 0].unsqueeze(-1) & inside[:, 1].unsqueeze(-2)  # (B, K, S, S)
    together = blocks.cumsum(1) > 0
    fits = together.sum((2, 3)) <= _LARGEST * size**2  # (B, K)
    fits[:, 0] = True
    chosen = together & fits[..., None, None]
    return chosen.any(1, keepdim=True)


def _regions(u: Tensor, size: int) -> Tensor:
    knots = u[:, 1:].view(-1, 1, _KNOTS, _KNOTS)
    field = functional.interpolate(knots, size=(size, size), mode="bicubic", align_corners=True)
    share = _SMALLEST_REGION + (_LARGEST - _SMALLEST_REGION) * u[:, 0]
    count = (share * size**2).long().clamp(min=1)  # (B,)
    in_order = field.flatten(1).sort(dim=1, descending=True).values
    level = in_order.gather(1, count.unsqueeze(1) - 1)  # the last one that is hidden
    return field >= level[..., None, None]
