"""What a decoder hands to the views: pixels, and which part of the file's image they are."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Picture:
    """A decoded image or clip, perhaps of fewer pixels than its file holds.

    Attributes:
        pixels: (H, W, 3) or (T, H, W, 3) uint8, contiguous and writable.
        height, width: Of the file's image, px.
        reduction: How many of those px a pixel is high and wide, of the last perhaps only a part.
        shown: Of a video: the seconds from which its first frame here is on display, and until
            which the last is.
        lasts_s: Of a video: how long all of it is, seconds.
        sound: Of a video: stretches of its sound, (N, L) int16, where they are asked for.
    """

    pixels: np.ndarray
    height: int
    width: int
    reduction: int = 1
    shown: tuple[float, float] | None = None
    lasts_s: float | None = None
    sound: np.ndarray | None = None

    @classmethod
    def whole(cls, pixels: np.ndarray) -> "Picture":
        """Wrap all pixels of an image or of a clip."""
        return cls(pixels, *pixels.shape[-3:-1])
