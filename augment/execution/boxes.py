"""Boxes around objects, as they follow a crop of their image or fit a square with it whole."""

import numpy as np

MIN_VISIBLE = 0.3  # share of a box's area; what shows less of an object is no example of it


def crop_boxes(
    boxes: np.ndarray, crop: tuple[int, int, int, int], size: int, *, flip: bool
) -> np.ndarray:
    """Bring boxes to the pixels of a crop that is resized to a square, and perhaps mirrored.

    Args:
        boxes: (M, 5) float32, x, y, width, height in px of the image, and the class; below 0 where
            there is no box.
        crop: Top, left, height and width of the crop, px of the image.
        size: S, side of the result, px.
        flip: Whether it is mirrored.

    Returns:
        (M, 5) float32, left, top, right, bottom in px of the result, and the class; -1 where there
        is no box, or less than `MIN_VISIBLE` of it lies in the crop.
    """
    top, left, height, width = crop
    scale = np.array([size / width, size / height], np.float32)
    corner = (boxes[:, :2] - np.array([left, top], np.float32)) * scale
    extent = boxes[:, 2:4] * scale
    low = np.clip(corner, 0, size)
    high = np.clip(corner + extent, 0, size)
    visible = (high - low).prod(1)
    kept = (boxes[:, 4] >= 0) & (visible > 0) & (visible >= MIN_VISIBLE * extent.prod(1))
    if flip:
        mirrored = size - high[:, 0]
        high[:, 0] = size - low[:, 0]
        low[:, 0] = mirrored
    found = np.concatenate([low, high, boxes[:, 4:]], axis=1)
    found[~kept] = (0, 0, 0, 0, -1)
    return np.asarray(found, dtype=np.float32)


def fitted(height: int, width: int, size: int) -> tuple[int, int]:
    """Return the height and width of an image whose longer side is resized to a size."""
    scale = size / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))
