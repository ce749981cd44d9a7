"""Cutting a view out of a decoded image: crop, antialiased resize, flip, on the CPU beside the decoder."""

import numpy as np
import torch
from torch.nn import functional

from augment.resize_kernel import LANES, MAX_SCALE, resize_box


def crop_resize(
    image: np.ndarray, top: int, left: int, height: int, width: int, flip: bool, size: int, out: np.ndarray
) -> None:
    """Cut a box out of an image, or out of every frame of a clip, resize it to a square and write it channels first.

    Bilinear with antialiasing: equal to Pillow's BILINEAR resize of the cut box up to two grey levels.

    Args:
        image: (H, W, 3) or (T, H, W, 3) uint8, contiguous and writable.
        top, left, height, width: The box, px; it lies inside the image.
        flip: Mirror left to right.
        size: Side of the result, px.
        out: (3, size, size) or (T, 3, size, size) uint8, overwritten.
    """
    if image.ndim == 4:
        for frame, view in zip(image, out, strict=True):
            crop_resize(frame, top, left, height, width, flip, size, view)
        return
    if size >= LANES and max(height, width) <= MAX_SCALE * size:
        # The boxes of training. Plain ints: numba compiles a kernel for each kind of argument.
        resize_box(image.reshape(image.shape[0], -1), top, left, height, width, flip, out)
        return
    # The strided cut is what torch calls channels_last, its fast path; a contiguous copy first costs 0.09 ms at 224 px.
    box = torch.from_numpy(image[top : top + height, left : left + width]).permute(2, 0, 1)
    view = functional.interpolate(box[None], size=(size, size), mode="bilinear", antialias=True)[0]
    torch.from_numpy(out).copy_(view.flip(-1) if flip else view)


def centre_crop(image: np.ndarray, size: int, out: np.ndarray) -> None:
    """Resize the largest centred square of an image or of a clip's frames: what encoders are shown outside pretraining.

    Args:
        image: (H, W, 3) or (T, H, W, 3) uint8, contiguous and writable.
        size: Side of the result, px.
        out: (3, size, size) or (T, 3, size, size) uint8, overwritten.
    """
    height, width = image.shape[-3:-1]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    crop_resize(image, top=top, left=left, height=side, width=side, flip=False, size=size, out=out)
