"""Boxes of random resized crops from uniform numbers, compiled: an image at a time, as it is
decoded."""

import math

import numpy as np

from augment.kernels.compiled import compiled

CROP_TRIES = 10  # as torchvision's RandomResizedCrop
NUM_UNIFORMS = 2 * CROP_TRIES + 3


@compiled()
def draw_box(
    u: np.ndarray, height: int, width: int, bounds: np.ndarray
) -> tuple[int, int, int, int, bool]:  # pragma: no cover - compiled
    """Draw the box of one view; see `augment.sample.sample_crops`.

    Args:
        u: (NUM_UNIFORMS,) float32: for the areas and the aspects of the tries, then for the place
            and the flip.
        height, width: The image's, px.
        bounds: `scale`, `ratio`, and the probability of a flip, (5,) float64.

    Returns:
        Top, left, height and width, px, and whether to flip.
    """
    scale = bounds[:2]
    log_ratio = (math.log(bounds[2]), math.log(bounds[3]))
    free = u[2 * CROP_TRIES :]
    flip = np.float64(free[2]) < bounds[4]
    for k in range(CROP_TRIES):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * np.float64(u[k]))
        ratio = math.exp(
            log_ratio[0] + (log_ratio[1] - log_ratio[0]) * np.float64(u[CROP_TRIES + k])
        )
        box_width = round(math.sqrt(area * ratio))
        box_height = round(math.sqrt(area / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(np.float64(free[0]) * (height - box_height + 1))
            left = int(np.float64(free[1]) * (width - box_width + 1))
            return top, left, box_height, box_width, flip
    # The largest central box whose aspect is allowed.
    box_height = max(1, min(height, round(width / bounds[2])))
    box_width = max(1, min(width, round(height * bounds[3])))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width, flip


@compiled()
def draw_boxes(
    u: np.ndarray, height: np.ndarray, width: np.ndarray, bounds: np.ndarray
) -> np.ndarray:  # pragma: no cover - compiled
    """Draw (B, 5) int64 boxes of (B, NUM_UNIFORMS) numbers and (B,) int64 sizes; see `draw_box`."""
    boxes = np.empty((u.shape[0], 5), np.int64)
    for row in range(u.shape[0]):
        top, left, box_height, box_width, flip = draw_box(u[row], height[row], width[row], bounds)
        boxes[row, 0], boxes[row, 1], boxes[row, 2], boxes[row, 3], boxes[row, 4] = (
            top,
            left,
            box_height,
            box_width,
            flip,
        )
    return boxes
