"""Draws optical flow: in colours, and as arrows over the frame that moves."""

import math

import torch
from torch import Tensor
from torch.nn import functional

_ARROWS = 8  # in a row and in a column
_LEAST_PX = 112  # side of a picture with arrows
_STILL_PX = 0.1  # of the view: what moves less has no arrow
_LONGEST = 0.9  # of the way to the next arrow
_HEAD = 0.35  # of an arrow's length
_HEAD_ANGLE = math.radians(150)  # from the way it points
_INK = (1.0, 0.9, 0.1)


def flow_colours(flow: Tensor) -> Tensor:
    """Draw flow (B, 2, S, S) on the colour wheel: hue by direction, right is red; paler where less
    moves, white where nothing does. (B, 3, S, S) RGB in [0, 1]."""
    from kornia.color import hsv_to_rgb  # here, as it is slow to import and only drawings need it

    length = flow.square().sum(dim=1).sqrt()
    most = length.amax(dim=(1, 2), keepdim=True).clamp(min=1)  # px: less is next to nothing
    hue = torch.atan2(flow[:, 1], flow[:, 0]).remainder(2 * torch.pi)
    coloured: Tensor = hsv_to_rgb(torch.stack([hue, length / most, torch.ones_like(hue)], dim=1))
    return coloured.clamp(0, 1)


def flow_arrows(frames: Tensor, flow: Tensor) -> Tensor:
    """Draw the flow of each part of a frame as an arrow from its middle, the longest of a picture
    nearly as long as a part is wide.

    Args:
        frames: (B, 3, S, S) RGB in [0, 1].
        flow: (B, 2, S, S), to the right and down, px.

    Returns:
        (B, 3, S', S') RGB in [0, 1], frames enlarged by a whole number so that arrows can be seen.
    """
    count = min(_ARROWS, frames.shape[-1])
    factor = math.ceil(_LEAST_PX / frames.shape[-1])
    enlarged = frames.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    side = enlarged.shape[-1]
    moved = functional.adaptive_avg_pool2d(flow.float(), count).flatten(2).transpose(1, 2)
    length = moved.norm(dim=2)  # (B, N)
    most = length.amax(dim=1, keepdim=True).clamp(min=_STILL_PX)
    arrows = moved / most.unsqueeze(2) * (_LONGEST * side / count)  # (B, N, 2), px of the picture
    middles = (torch.arange(count, device=flow.device) + 0.5) * side / count
    down, right = torch.meshgrid(middles, middles, indexing="ij")
    tails = torch.stack([right, down], dim=-1).flatten(0, 1)  # (N, 2)
    tips = tails + arrows
    heads = [tips + _HEAD * _turned(arrows, angle) for angle in (_HEAD_ANGLE, -_HEAD_ANGLE)]
    lines = [(tails.expand_as(tips), tips), *((tips, head) for head in heads)]
    drawn = _drawn(lines, length >= _STILL_PX, side)
    shadow = functional.max_pool2d(drawn, 3, stride=1, padding=1)
    ink = frames.new_tensor(_INK).view(1, 3, 1, 1)
    return enlarged * (1 - shadow) + ink * drawn


def _turned(arrows: Tensor, angle: float) -> Tensor:
    """Turn vectors (..., 2)."""
    across, down = arrows.unbind(dim=-1)
    cos, sin = math.cos(angle), math.sin(angle)
    return torch.stack([cos * across - sin * down, sin * across + cos * down], dim=-1)


def _drawn(lines: list[tuple[Tensor, Tensor]], wanted: Tensor, side: int) -> Tensor:
    """Draw lines from points to points (B, N, 2) where they are wanted (B, N), as a mask
    (B, 1, side, side) of 0 and 1."""
    along = torch.linspace(0, 1, 2 * side // _ARROWS, device=wanted.device).view(-1, 1)
    mask = torch.zeros(len(wanted), side * side, device=wanted.device)
    for begin, end in lines:
        points = begin.unsqueeze(2) + along * (end - begin).unsqueeze(2)  # (B, N, P, 2)
        across, down = points.round().long().unbind(dim=3)
        inside = (across >= 0) & (across < side) & (down >= 0) & (down < side)
        index = (down * side + across).clamp(0, side * side - 1).flatten(1)
        values = (inside & wanted.unsqueeze(2)).flatten(1).float()
        mask.scatter_reduce_(1, index, values, "amax")
    return mask.view(-1, 1, side, side)
