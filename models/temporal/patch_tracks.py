"""Patches that move, found and followed through a clip by their pixels."""

import torch
from torch import Tensor
from torch.nn import functional

_FLOOR = 1e-6  # of a patch's variance: what is of one colour looks like nothing


def liveliest_patches(frames: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Find the patch of each clip's first frame in which most changes to the second.

    Args:
        frames: RGB in [0, 1], (B, T, 3, S, S) with T >= 2.
        side: Of a patch, px.

    Returns:
        Its top and left, (B, 2) int64; the mean change of a value in it, (B,).
    """
    change = (frames[:, 1] - frames[:, 0]).abs().mean(dim=1, keepdim=True)  # (B, 1, S, S)
    within = functional.avg_pool2d(change, side, stride=1)[:, 0]  # (B, n, n)
    moved, place = within.flatten(1).max(1)
    return torch.stack([place // within.shape[2], place % within.shape[2]], dim=1), moved


def follow_patches(frames: Tensor, start: Tensor, side: int, reach: int) -> tuple[Tensor, Tensor]:
    """Follow a patch of each clip, from frame to frame to where its pixels correlate best.

    What is looked for is the patch as it was in the frame before. Of places equally good the first
    row by row counts.

    Args:
        frames: RGB in [0, 1], (B, T, 3, S, S).
        start: Top and left of the patch in the first frame, (B, 2) int64.
        side: Of a patch, px.
        reach: Of a search in each direction, px.

    Returns:
        Top and left in every frame, (B, T, 2) int64; the correlation of each step, (B, T - 1).
    """
    size = frames.shape[-1]
    track = [start]
    alike = []
    for time in range(1, frames.shape[1]):
        before = _cut(frames[:, time - 1], track[-1], side)  # (B, 3, p, p)
        # the window slides into the frame where it would reach beyond
        width = min(side + 2 * reach, size)
        corner = (track[-1] - reach).clamp(0, size - width)
        window = _cut(frames[:, time], corner, width)
        best, place = _correlation(window, before).flatten(1).max(1)
        num = width - side + 1
        track.append(corner + torch.stack([place // num, place % num], dim=1))
        alike.append(best)
    return torch.stack(track, dim=1), torch.stack(alike, dim=1)


def _cut(images: Tensor, corner: Tensor, side: int) -> Tensor:
    """Cut a square of whole px out of each image."""
    step = torch.arange(side, device=images.device)
    rows = (corner[:, 0, None] + step).view(-1, 1, side, 1)
    columns = (corner[:, 1, None] + step).view(-1, 1, 1, side)
    sample = torch.arange(len(images), device=images.device).view(-1, 1, 1, 1)
    channel = torch.arange(images.shape[1], device=images.device).view(1, -1, 1, 1)
    return images[sample, channel, rows, columns]


def _correlation(windows: Tensor, patches: Tensor) -> Tensor:
    """Return the normalised correlation of each patch with every place of its window, from -1 to 1.

    Args:
        windows: (B, C, w, w).
        patches: (B, C, p, p).

    Returns:
        (B, w - p + 1, w - p + 1).
    """
    count = patches[0].numel()
    centred = patches - patches.mean((1, 2, 3), keepdim=True)
    products = (
        functional.conv2d(
            windows.flatten(0, 1).unsqueeze(0),
            centred.flatten(0, 1).unsqueeze(1),
            groups=windows.shape[0] * windows.shape[1],
        )[0]
        .unflatten(0, windows.shape[:2])
        .sum(1)
    )
    side = patches.shape[-1]
    mean = functional.avg_pool2d(windows, side, stride=1).mean(1)
    square = functional.avg_pool2d(windows.square(), side, stride=1).mean(1)
    spread = (square - mean.square()).clamp(min=_FLOOR)
    own = centred.square().mean((1, 2, 3)).clamp(min=_FLOOR).view(-1, 1, 1)
    correlation: Tensor = products / (count * (spread * own).sqrt())
    return correlation
