"""Turn the bytes of a mask file into class indices: grey values or palette indices as they stand,
never colours."""

import io

import numpy as np
from PIL import Image

from pipelines.media.contract import BadSample, Limits, check_pixels
from pipelines.media.image import reported

_FORMATS = ("PNG", "TIFF", "BMP", "GIF")
MOST = 255  # the largest index


def decode_indices(data: bytes, limits: Limits) -> np.ndarray:
    """Decode a mask.

    Args:
        data: The whole file, PNG or another format that keeps values as they are.
        limits: What is not decoded.

    Returns:
        Class indices (H, W) uint8.

    Raises:
        BadSample: `mask`: it holds colours or indices above 255; or it cannot be read.
    """

    def load() -> np.ndarray:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            check_pixels(image.height, image.width, limits.max_pixels)
            if image.mode not in ("1", "L", "P", "I", "I;16", "I;16B"):
                raise BadSample(
                    "mask", f"{image.mode} pixels, where class indices (grey or palette) must be"
                )
            values = np.array(image)
        if values.size and (int(values.max()) > MOST or int(values.min()) < 0):
            raise BadSample("mask", f"class index {int(values.max())}, the most is {MOST}")
        return np.ascontiguousarray(values.astype(np.uint8))

    return reported(data, load)
