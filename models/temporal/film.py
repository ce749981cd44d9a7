"""Clips as pictures, for people."""

import torch
from torch import Tensor

_SIDE = 2  # frames in a row


def film(clips: Tensor) -> Tensor:
    """Show four frames of each clip, from its first to its last, as one picture.

    Args:
        clips: (..., T, 3, S, S).

    Returns:
        (..., 3, 2S, 2S), in reading order.
    """
    times = torch.linspace(0, clips.shape[-4] - 1, _SIDE**2).round().long()
    frames = clips.index_select(-4, times.to(clips.device)).unflatten(-4, (_SIDE, -1))
    rows = torch.cat(frames.unbind(-4), dim=-1)  # (..., 2, 3, S, 2S)
    return torch.cat(rows.unbind(-4), dim=-2)
