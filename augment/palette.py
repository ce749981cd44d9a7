"""One colour for each class index, the same in every picture and mask."""

import numpy as np


def class_colours(count: int) -> np.ndarray:
    """Return the colours that PASCAL VOC gave its classes, black first: neighbouring indices differ
    most, since their lowest bits become the highest of the channels.

    Args:
        count: Up to 256.

    Returns:
        (count, 3) uint8.
    """
    index = np.arange(count)
    colours = np.zeros((count, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            part = (index >> (3 * bit + channel)) & 1
            colours[:, channel] |= (part << (7 - bit)).astype(np.uint8)
    return colours
