"""Patches cut out of frames, anywhere and of any size, resized to one side."""

import torch
from torch import Tensor
from torch.nn import functional


def patch_side(share: float, size: int) -> int:
    """Return the side of patches, px.

    Args:
        share: Of the views' side, `method.patch_share`.
        size: The views' side, px.

    Raises:
        ValueError: patches would be too small to tell anything.
    """
    side = round(share * size)
    if side < 8:
        raise ValueError(
            f"method.patch_share={share:g} of views.size={size} makes patches of less than 8 px:"
            " raise one of them"
        )
    return side


def grid_boxes(grid: int, side: int, size: int) -> Tensor:
    """List the patches of a regular grid that reaches from border to border.

    Args:
        grid: Patches along each side of the frame, at least 2.
        side: Of a patch, px.
        size: Of the frame, px.

    Returns:
        (grid * grid, 3) float32: left, top and side, px, row by row.
    """
    corner = torch.linspace(0, size - side, grid)
    top, left = torch.meshgrid(corner, corner, indexing="ij")
    return torch.stack([left, top, torch.full_like(left, side)], dim=-1).flatten(0, 1)


def cut_patches(frames: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Cut patches out of frames, bilinear; a patch of whole px and its own size is an exact copy.

    Args:
        frames: (B, T, 3, S, S).
        boxes: Left, top and side of each patch, px, (B, T, N, 3).
        side: p, of the result, px.

    Returns:
        (B, T, N, 3, p, p).
    """
    size = frames.shape[-1]
    count = boxes.shape[2]
    middle = (torch.arange(side, device=frames.device) + 0.5) / side
    left, top, width = boxes.float().flatten(0, 1).unsqueeze(-1).unbind(2)  # (B*T, N, 1)
    # to grid_sample's -1 to 1, from border to border
    x = 2 * (left + width * middle) / size - 1  # (B*T, N, p)
    y = 2 * (top + width * middle) / size - 1
    shape = (-1, -1, side, side)
    places = torch.stack([x.unsqueeze(2).expand(shape), y.unsqueeze(3).expand(shape)], dim=-1)
    cut = functional.grid_sample(
        frames.flatten(0, 1).float(),
        places.flatten(1, 2),
        padding_mode="border",
        align_corners=False,
    )  # (B*T, 3, N*p, p)
    patches = cut.unflatten(2, (count, side)).transpose(1, 2)
    whole: Tensor = patches.unflatten(0, frames.shape[:2]).to(frames.dtype)
    return whole
