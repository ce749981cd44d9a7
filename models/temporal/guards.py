"""What keeps tasks of order and direction from being solved by anything but motion."""

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from augment.frozen import Frozen


class MotionGuards(Frozen):
    """Settings of what a task of order must not be told by."""

    min_motion: float = Field(
        default=0.01,
        ge=0,
        lt=1,
        description=(
            "mean change of a pixel from a frame to the next, RGB in [0, 1], below which a clip"
            " stands still and is not asked about"
        ),
    )
    margin: float = Field(
        default=0.05,
        ge=0,
        lt=0.5,
        description=(
            "share of each side that is grey at every border: bars and stabilised edges tell time"
        ),
    )
    soften: int = Field(
        default=2,
        ge=1,
        description=(
            "side of squares whose mean takes their place, px: compression leaves traces that tell"
            " a frame's place after a key frame; 1: none"
        ),
    )


def guarded(clips: Tensor, guards: MotionGuards) -> Tensor:
    """Take borders and the finest detail out of clips.

    Args:
        clips: (B, T, 3, S, S) normalised, so that grey is 0.
        guards: How much of both.
    """
    height, width = clips.shape[-2:]
    if guards.soften > 1:
        frames = clips.flatten(0, 1)
        coarse = functional.avg_pool2d(frames, guards.soften, ceil_mode=True)
        coarse = coarse.repeat_interleave(guards.soften, -1).repeat_interleave(guards.soften, -2)
        clips = coarse[..., :height, :width].unflatten(0, clips.shape[:2])
    rows, columns = (round(guards.margin * side) for side in (height, width))
    inside = torch.zeros(height, width, dtype=torch.bool, device=clips.device)
    inside[rows : height - rows, columns : width - columns] = True
    return clips * inside


def motion(frames: Tensor) -> Tensor:
    """Measure how much clips change from a frame to the next.

    Args:
        frames: (B, T, 3, S, S) RGB in [0, 1].

    Returns:
        (B, T - 1), the mean absolute difference of a value.
    """
    return frames.diff(dim=1).abs().flatten(2).mean(dim=2)
