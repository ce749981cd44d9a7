"""Read images of more than 8 bits a channel, or of more than four channels, and scale them to 8
bits.

What such values mean the files rarely say: twelve bits of a detector often lie in sixteen of a
file. `Limits.value_range` says what becomes black and white, `Limits.bands` which channels count.
"""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.media.contract import BadSample, Limits, check_pixels

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG = b"\x89PNG\r\n\x1a\n"
# Min and MaxSampleValue, SMin and SMaxSampleValue
_LOWEST = (280, 340)
_HIGHEST = (281, 341)
_PNG_FORMATS = {2: "rgb48be", 6: "rgba64be", 4: "ya16be"}  # by the colour type of 16-bit files
_ALPHA = (1, 2)  # of ExtraSamples


@dataclass(frozen=True)
class Values:
    """Values of an image as its file holds them.

    Attributes:
        bands: (H, W, C), of any real type; of four channels the last is opacity.
        told: The darkest and the brightest value by the file's own word, None if it does not say.
        orientation: Of EXIF, 1 to 8.
        inverted: Zero is white.
    """

    bands: np.ndarray
    told: tuple[float, float] | None = None
    orientation: int = 1
    inverted: bool = False

    def rgb(self, value_range: str | tuple[float, float]) -> np.ndarray:
        """Scale to (H, W, 3) uint8, on white where it is transparent."""
        levels = to_levels(self.bands[:, :, :3], value_range, self.told)
        if self.inverted:
            levels = 255 - levels
        if self.bands.shape[2] == 4:
            opacity = to_levels(self.bands[:, :, 3:], "type", None) / np.float32(255)
            levels = np.rint(levels * opacity + 255 * (1 - opacity)).astype(np.uint8)
        return np.ascontiguousarray(np.broadcast_to(levels, (*levels.shape[:2], 3)))


def to_levels(
    values: np.ndarray,
    value_range: str | tuple[float, float],
    told: tuple[float, float] | None,
) -> np.ndarray:
    """Scale values to 0..255.

    Args:
        values: Of any shape and real type.
        value_range: What becomes black and white; see `Limits`.
        told: The same by the file's own word.

    Raises:
        BadSample: a value is not finite.
    """
    wide = values.astype(np.float32)
    if not np.isfinite(wide).all():
        raise BadSample("corrupt", "pixels that are not finite numbers")
    least = float(wide.min())
    most = float(wide.max())
    if not isinstance(value_range, str):
        low, high = value_range
    elif value_range == "auto" and told is not None and told[0] <= least and most <= told[1]:
        low, high = told
    else:
        low = 0.0
        high = _highest(values.dtype)
        if least < low or most > high:
            low = least
            high = most
    scaled = (wide - low) * (255.0 / max(high - low, 1e-12))
    levels: np.ndarray = np.rint(scaled.clip(0, 255)).astype(np.uint8)
    return levels


def _highest(kind: np.dtype) -> float:
    if kind.kind == "f":
        return 1.0
    return 255.0 if kind.itemsize == 1 else 65535.0


def read_values(data: bytes, limits: Limits) -> Values | None:
    """Read what Pillow cannot, or not in full; None where it can.

    Raises:
        BadSample: it cannot be read, with the true reason.
    """
    if data.startswith(_TIFF):
        return _read_tiff(data, limits)
    if data.startswith(_PNG) and data[24:25] == b"\x10" and data[25:26] in (b"\2", b"\4", b"\6"):
        return _read_png(data, limits)
    return None


def told_by_png(data: bytes, most: float) -> tuple[float, float] | None:
    """Return the range by a PNG file's sBIT, where values are not scaled up as it should be."""
    start = 8
    while start + 12 <= len(data):
        length = int.from_bytes(data[start : start + 4], "big")
        kind = data[start + 4 : start + 8]
        if kind == b"sBIT":
            highest = 2.0 ** max(data[start + 8 : start + 8 + length], default=16) - 1
            return (0.0, highest) if most <= highest else None
        if kind == b"IDAT":
            break
        start += 12 + length
    return None


def _read_png(data: bytes, limits: Limits) -> Values | None:
    """Read a colour PNG file of 16 bits, of which Pillow takes the upper eight."""
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    check_pixels(height, width, limits.max_pixels)
    import av  # here, as few files are such
    from av.codec import CodecContext

    decoder = CodecContext.create("png", "r")
    decoder.thread_count = 1
    try:
        frames = [*decoder.decode(av.Packet(data)), *decoder.decode(None)]
        if not frames or frames[0].is_corrupt or frames[0].format.name != _PNG_FORMATS[data[25]]:
            return None
        bands = frames[0].to_ndarray()
    except (av.FFmpegError, ValueError):  # Pillow says what is wrong
        return None
    if bands.ndim != 3 or bands.shape[:2] != (height, width) or bands.shape[2] not in (3, 4):
        return None
    return Values(bands, told_by_png(data, float(bands[:, :, :3].max())))


def _read_tiff(data: bytes, limits: Limits) -> Values | None:
    """Read the bands of a TIFF file that Pillow does not read, or that `limits.bands` asks for."""
    import tifffile  # here, as few files are such

    try:
        file = tifffile.TiffFile(io.BytesIO(data))
        page: Any = file.pages.first
        bands = int(page.samplesperpixel)
        kind = page.dtype
        height = int(page.imagelength)
        width = int(page.imagewidth)
    except Exception:  # Pillow says what is wrong
        return None
    eight_bits = kind is not None and kind.itemsize == 1
    if not limits.bands and (bands == 1 or (bands <= 4 and eight_bits)):
        return None
    check_pixels(height, width, limits.max_pixels)
    if height * width * bands > 4 * limits.max_pixels:
        raise BadSample("too_many_pixels", f"{bands} bands of {height} x {width} pixels")
    if kind is None or kind.kind not in "uif":
        raise BadSample(
            "unsupported", f"values of {page.bitspersample} bits, {page.sampleformat!r}"
        )
    chosen = _chosen(page, bands, limits.bands)
    try:
        values = page.asarray(maxworkers=1)
    except (ValueError, KeyError, ImportError) as error:
        if "imagecodecs" not in str(error):
            raise
        raise BadSample(
            "unsupported", f"{page.compression.name} compression needs `pip install imagecodecs`"
        ) from error
    values = np.moveaxis(values, page.axes.index("S"), -1) if "S" in page.axes else values
    values = values.reshape(height, width, bands)
    return Values(
        np.ascontiguousarray(values[:, :, chosen]),
        told_by_tags({code: tag.value for code, tag in page.tags.items()}, kind),
        int(page.tags[274].value) if 274 in page.tags else 1,
        inverted=page.photometric == 0,
    )


def _chosen(page: Any, bands: int, wanted: tuple[int, ...]) -> list[int]:
    """Return the indices of the bands to show."""
    if wanted:
        if max(wanted) > bands:
            raise BadSample(
                "unsupported", f"{bands} bands, and source.bands asks for {max(wanted)}"
            )
        return [band - 1 for band in wanted]
    extra = tuple(page.extrasamples or ())
    if page.photometric == 2 and bands >= 3 and (bands == 3 or len(extra) == bands - 3):
        return [0, 1, 2, 3] if bands == 4 and extra[0] in _ALPHA else [0, 1, 2]
    if bands == 3 and page.photometric in (0, 1):
        return [0, 1, 2]
    if bands == 2:
        return [0]
    raise BadSample("unsupported", f"{bands} bands: choose one or three with source.bands=[3,2,1]")


def told_by_tags(tags: dict[int, Any], kind: np.dtype) -> tuple[float, float] | None:
    """Return the range by a TIFF file's own tags: its extreme values, else its bits a sample."""
    lowest = next((float(np.min(tags[code])) for code in _LOWEST if code in tags), 0.0)
    highest = next((float(np.max(tags[code])) for code in _HIGHEST if code in tags), None)
    if highest is not None and highest > lowest:
        return lowest, highest
    bits = int(np.max(tags.get(258, 0)))
    if kind.kind == "u" and 8 < bits < 8 * kind.itemsize:
        return 0.0, 2.0**bits - 1
    return None
