"""Turn the bytes of a depth file into its values as they stand, 16 bits deep."""

import io

import numpy as np
from PIL import Image

from pipelines.media.contract import BadSample, Limits, check_pixels
from pipelines.media.image import reported

_FORMATS = ("PNG", "TIFF")
MOST = 65535


def decode_depth(data: bytes, limits: Limits) -> np.ndarray:
    """Decode a depth map.

    Args:
        data: The whole file, PNG or TIFF of one channel of whole numbers.
        limits: What is not decoded.

    Returns:
        (H, W) uint16; most files have millimetres, and 0 where depth is unknown.

    Raises:
        BadSample: `pair`: it holds colours, fractions or values above 65535; or it cannot be read.
    """

    def load() -> np.ndarray:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            check_pixels(image.height, image.width, limits.max_pixels)
            if image.mode not in ("L", "I") and not image.mode.startswith("I;16"):
                raise BadSample(
                    "pair",
                    f"its second image holds {image.mode} pixels, where depth (grey, whole numbers"
                    " of up to 16 bits) must be: source.pair_kind=colours takes them",
                )
            values = np.array(image)
        if values.size and (int(values.max()) > MOST or int(values.min()) < 0):
            raise BadSample("pair", f"depths outside 0 to {MOST} in its second image")
        return np.ascontiguousarray(values.astype(np.uint16))

    return reported(data, load)
