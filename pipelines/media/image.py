"""Turn the bytes of one image file into RGB pixels, or say why that is not possible.

JPEG, nearly all of the web, goes through libjpeg-turbo; every other format, and the JPEGs that
libjpeg-turbo's RGB path does not take (CMYK, arithmetic coding), through Pillow. Embedded colour
profiles are not applied.
"""

import io
import struct
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from pipelines.media.contract import BadSample, Limits, Reason, check_pixels
from pipelines.media.deep import read_values, to_levels, told_by_png, told_by_tags
from pipelines.media.jpeg import decode_jpeg, upright

# Still-image formats that are decoded. Left out on purpose: EPS, which starts Ghostscript, and the
# formats for which Pillow has only a stub.
_FORMATS = (
    *("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "DIB", "AVIF", "JPEG2000", "ICO"),
    *("ICNS", "TGA", "PPM", "QOI", "PCX", "PSD", "SGI", "DDS", "FLI"),
)
_MAGIC = (
    *(b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*", b"BM", b"RIFF"),
    *(b"\0\0\1\0", b"\0\0\0\x0cjP", b"\xffO\xffQ"),
)
_ORIENTATION = 0x0112
_MOST_VALUES = 4096
Result = TypeVar("Result")
# What Pillow's EXIF reader raises on damage, which says nothing against the pixels.
_METADATA_ERRORS = (OSError, SyntaxError, LookupError, TypeError, ValueError, struct.error)


def decode(
    data: bytes,
    *,
    max_pixels: int,
    allow_truncated: bool = False,
    reduction: int = 1,
    value_range: str | tuple[float, float] = "auto",
    bands: tuple[int, ...] = (),
) -> np.ndarray:
    """Decode an image file of any common format to upright RGB.

    EXIF orientation is applied, transparency is composited on white (the page that web images are
    drawn for), 16-bit and float greys are scaled to 8 bits rather than clipped, and of several
    frames the first is taken.

    Args:
        data: The whole file; its name plays no role.
        max_pixels: Largest height * width to decode, checked in the header. Above 178 956 970
            Pillow's own limit still holds for formats other than JPEG.
        allow_truncated: Return an image that was cut off, its missing part grey or black.
        value_range, bands: As in `Limits`.
        reduction: How much smaller the image is decoded where its format allows it: 1, 2, 4 or 8.

    Returns:
        Pixels (H, W, 3) uint8, C-contiguous.

    Raises:
        BadSample: the bytes are no image, incomplete, damaged, or too large.
    """
    picture = decode_jpeg(
        data,
        max_pixels=max_pixels,
        allow_truncated=allow_truncated,
        reduce=lambda *_: reduction,
    )
    if picture is not None:
        return picture.pixels
    limits = Limits(
        max_pixels=max_pixels,
        allow_truncated=allow_truncated,
        value_range=value_range,
        bands=bands,
    )
    return _decode_others(data, limits)


def deep_values(data: bytes, limits: Limits) -> np.ndarray:
    """Return up to 4096 values of an image of more than 8 bits a channel, float64; none of another.

    Raises:
        BadSample: the bytes are no image, or too large.
    """
    values = np.empty(0)
    if not data.startswith(b"\xff\xd8\xff"):
        Image.init()
        deep = reported(data, lambda: read_values(data, limits))
        if deep is not None:
            values = deep.bands[:, :, :3].reshape(-1).astype(np.float64)
        else:
            values = reported(data, lambda: _grey_values(data, limits))
    step = max(1, -(-len(values) // _MOST_VALUES))
    return np.ascontiguousarray(values[::step])


def _grey_values(data: bytes, limits: Limits) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        if not image.mode.startswith(("I", "F")):
            return np.empty(0)
        check_pixels(image.height, image.width, limits.max_pixels)
        return np.asarray(image).reshape(-1).astype(np.float64)


def _decode_others(data: bytes, limits: Limits) -> np.ndarray:
    Image.init()  # registers every plugin, once a process; Image.open(formats=...) relies on it
    ImageFile.LOAD_TRUNCATED_IMAGES = limits.allow_truncated

    def load() -> np.ndarray:
        values = read_values(data, limits)
        if values is not None:
            return upright(values.rgb(limits.value_range), values.orientation)
        return _load(data, limits)

    return reported(data, load)


def reported(data: bytes, load: Callable[[], Result]) -> Result:
    """Load something of a file; whatever goes wrong is a property of its bytes.

    Raises:
        BadSample: it goes wrong.
    """
    try:
        with warnings.catch_warnings():
            # One message per damaged tag of a web corpus floods the log; what matters ends as
            # BadSample.
            warnings.filterwarnings("ignore", module=r"PIL\.")
            return load()
    except BadSample:
        raise
    except Image.DecompressionBombError as error:
        raise BadSample("too_many_pixels", str(error)) from error
    except UnidentifiedImageError as error:
        known = data.startswith(_MAGIC) or data[4:12] == b"ftypavif"
        message = (
            "no readable header" if known else f"no known image format, begins with {data[:16]!r}"
        )
        raise BadSample("corrupt" if known else "unknown_type", message) from error
    except (
        Exception
    ) as error:  # the bytes are in memory: whatever a parser trips over is a property of the bytes
        raise BadSample(_reason(error), f"{type(error).__name__}: {error}") from error


def _reason(error: Exception) -> Reason:
    text = str(error).lower()
    if isinstance(error, MemoryError) or "too large" in text:
        return "too_large"
    return "truncated" if isinstance(error, EOFError) or "truncated" in text else "corrupt"


def _load(data: bytes, limits: Limits) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        check_pixels(image.height, image.width, limits.max_pixels)
        image.load()
        try:
            # After load, since some of Pillow's readers (TIFF, AVIF) turn the image themselves and
            # then say so here.
            orientation = image.getexif().get(_ORIENTATION, 1)
        except _METADATA_ERRORS:
            orientation = 1
        return upright(_to_rgb(image, data, limits), orientation)


def _to_rgb(image: Image.Image, data: bytes, limits: Limits) -> np.ndarray:
    """Convert any Pillow mode to (H, W, 3) uint8."""
    if image.mode.startswith(("I", "F")):
        grey = _to_8_bit(image, data, limits)
        return np.repeat(grey[:, :, None], 3, axis=2)  # (H, W, 3)
    if image.mode == "LAB":
        # Pillow's convert would only relabel the channels
        raise BadSample("unknown_type", "L*a*b* pixels")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))


def _to_8_bit(image: Image.Image, data: bytes, limits: Limits) -> np.ndarray:
    """Scale deep grey (H, W) to uint8; a range that the values leave is replaced by their own."""
    values = np.asarray(image)
    if image.format == "PNG":
        told = told_by_png(data, float(values.max()))
    else:
        told = told_by_tags(dict(getattr(image, "tag_v2", {})), values.dtype)
    grey = to_levels(values, limits.value_range, told)
    key: Any = image.info.get("transparency")
    if isinstance(key, int):
        grey[values == key] = 255  # the one transparent value of a 16-bit PNG, on white
    return grey
