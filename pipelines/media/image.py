"""Turn the bytes of one image file into RGB pixels, or say why that is not possible.

JPEG, nearly all of the web, goes through libjpeg-turbo; every other format, and the JPEGs that libjpeg-turbo's RGB path
does not take (CMYK, arithmetic coding), through Pillow. Embedded colour profiles are not applied.
"""

import io
import math
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import simplejpeg
from PIL import Image, ImageFile, UnidentifiedImageError

from augment.picture import Picture

Reduce = Callable[
    [int, int], int
]  # from an image's height and width to how much smaller it may be decoded

Reason = Literal[
    "empty",
    "unknown_type",
    "truncated",
    "corrupt",
    "too_many_pixels",
    "too_large",  # in bytes, or in the memory that decoding would take
    "too_long",
    "no_video",
    "timeout",
    "crashed",
    "checksum",
    "missing",
    "refused",  # by the storage, which hands out others; new ones go to the end, for blocks hold an index
]
REASONS: tuple[Reason, ...] = get_args(Reason)

# Still-image formats that are decoded. Left out on purpose: EPS, which starts Ghostscript, and the formats
# for which Pillow has only a stub.
_FORMATS = (
    *("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "DIB", "AVIF", "JPEG2000", "ICO"),
    *("ICNS", "TGA", "PPM", "QOI", "PCX", "PSD", "SGI", "DDS", "FLI"),
)
_MAGIC = (
    *(b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*", b"BM", b"RIFF"),
    *(b"\0\0\1\0", b"\0\0\0\x0cjP", b"\xffO\xffQ"),
)
_ORIENTATION = 0x0112
# What Pillow's EXIF reader raises on damage, which says nothing against the pixels.
_METADATA_ERRORS = (OSError, SyntaxError, LookupError, TypeError, ValueError, struct.error)
# libjpeg-turbo's strict mode stops at every warning. These concern the header, not the pixels; Pillow ignores them and
# still refuses a truncated file.
_HARMLESS = ("Invalid SOS parameters", "Warning: unknown JFIF", "Unknown Adobe color")


class BadSample(Exception):
    """A sample that cannot be used, through no fault of the machine: to be counted and skipped, never retried.

    Attributes:
        reason: What to count it under.
        message: What the decoder said, for a person.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(reason, message)
        self.reason: Reason = reason
        self.message = message

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


@dataclass(frozen=True)
class Limits:
    """What a file may cost, checked in its header before anything is decoded.

    Attributes:
        max_pixels: Of an image, or of each frame of a video.
        max_bytes: Of the file; a larger one is not fetched.
        max_frames: Of a video.
        max_duration_s: Of a video.
        timeout_s: Time to decode one sample; fetching does not count.
        allow_truncated: Take what there is of a file that was cut off, the rest grey or still.
    """

    max_pixels: int = 100_000_000
    max_bytes: int = 2**30
    max_frames: int = 2_000_000
    max_duration_s: float = 43_200.0
    timeout_s: float = 60.0
    allow_truncated: bool = False


@dataclass(frozen=True)
class Clip:
    """Which frames of a video make a sample.

    Attributes:
        num_frames: T.
        frame_stride: Frames from one to the next, at the video's nominal rate; where `fps` is None.
        fps: Frames per second of the clip, whatever the video's rate.
        position: In [0, 1]: where among all places that the clip can take; 0.5 is the middle.
    """

    num_frames: int
    frame_stride: int
    fps: float | None
    position: float


def decode(data: bytes, *, max_pixels: int, allow_truncated: bool = False) -> np.ndarray:
    """Decode an image file of any common format to upright RGB.

    EXIF orientation is applied, transparency is composited on white (the page that web images are drawn for), 16-bit
    and float greys are scaled to 8 bits rather than clipped, and of several frames the first is taken.

    Args:
        data: The whole file; its name plays no role.
        max_pixels: Largest height * width to decode, checked in the header. Above 178 956 970 Pillow's own limit
            still holds for formats other than JPEG.
        allow_truncated: Return an image that was cut off, its missing part grey or black.

    Returns:
        Pixels (H, W, 3) uint8, C-contiguous.

    Raises:
        BadSample: the bytes are no image, incomplete, damaged, or too large.
    """
    picture = decode_jpeg(data, max_pixels=max_pixels, allow_truncated=allow_truncated)
    return _decode_pillow(data, max_pixels, allow_truncated) if picture is None else picture.pixels


def decode_jpeg(
    data: bytes, *, max_pixels: int, allow_truncated: bool = False, reduce: Reduce | None = None
) -> Picture | None:
    """Decode with libjpeg-turbo as `decode` does, or return None where Pillow has to be asked.

    Args:
        data: The whole file.
        max_pixels: As in `decode`, of the file's image.
        allow_truncated: As in `decode`.
        reduce: Says how much smaller the upright image may be decoded, by leaving out frequencies; None: all pixels.
    """
    if not data:
        raise BadSample("empty", "zero bytes")
    if not data.startswith(b"\xff\xd8\xff"):
        return None
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    check_pixels(height, width, max_pixels)
    if colorspace not in (
        "YCbCr",
        "Gray",
        "RGB",
    ):  # CMYK and YCCK: simplejpeg ignores Adobe's inversion
        return None
    orientation = _jpeg_orientation(data)
    upright = (width, height) if 5 <= orientation <= 8 else (height, width)
    reduction = 1 if reduce is None else reduce(*upright)
    if orientation != 1:  # mirrored, a last pixel that is only partly there would come first
        reduction = math.gcd(reduction, height, width)
    size = {"min_height": -(-height // reduction), "min_width": -(-width // reduction)}
    try:
        image = simplejpeg.decode_jpeg(
            data, "RGB", **size
        )  # strict: half an image is an error, not a grey half
    except ValueError as error:
        message = str(error)
        if message.startswith(_HARMLESS) or "Unsupported" in message:
            return None
        truncated = "premature end" in message.lower()
        if not (truncated and allow_truncated):
            raise BadSample("truncated" if truncated else "corrupt", message) from error
        image = simplejpeg.decode_jpeg(data, "RGB", strict=False, **size)
    return Picture(_upright(image, orientation), *upright, reduction)


def _jpeg_orientation(data: bytes) -> int:
    """Read the EXIF orientation from the segments before the image, 1 where there is none or it is damaged.

    Opening the file in Pillow for this would cost more than 3 % of decoding.
    """
    start = 2
    while start + 10 <= len(data) and data[start] == 0xFF:
        marker, length = struct.unpack_from(">xBH", data, start)
        if marker == 0xE1 and data.startswith(b"Exif\0\0", start + 4):
            return _tiff_orientation(data[start + 10 : start + 2 + length])
        if (
            not 0xE0 <= marker <= 0xEF and marker != 0xFE
        ):  # neither application data nor a comment: the image begins
            break
        start += 2 + length
    return 1


def _tiff_orientation(exif: bytes) -> int:
    """Look the orientation up in the first directory of a TIFF structure."""
    order = "<" if exif.startswith(b"II") else ">"
    try:
        (directory,) = struct.unpack_from(order + "I", exif, 4)
        (num_entries,) = struct.unpack_from(order + "H", exif, directory)
        for entry in range(directory + 2, directory + 2 + 12 * num_entries, 12):
            tag, value = struct.unpack_from(order + "H6xH", exif, entry)
            if tag == _ORIENTATION:
                return int(value)
    except struct.error:  # damaged metadata say nothing against the pixels
        return 1
    return 1


def _decode_pillow(data: bytes, max_pixels: int, allow_truncated: bool) -> np.ndarray:
    Image.init()  # registers every plugin, once a process; Image.open(formats=...) relies on it
    ImageFile.LOAD_TRUNCATED_IMAGES = allow_truncated
    try:
        with warnings.catch_warnings():
            # One message per damaged tag of a web corpus floods the log; what matters ends as BadSample.
            warnings.filterwarnings("ignore", module=r"PIL\.")
            return _load(data, max_pixels)
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


def _load(data: bytes, max_pixels: int) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        check_pixels(image.height, image.width, max_pixels)
        image.load()
        try:
            # After load, since some of Pillow's readers (TIFF, AVIF) turn the image themselves and then say so here.
            orientation = image.getexif().get(_ORIENTATION, 1)
        except _METADATA_ERRORS:
            orientation = 1
        return _upright(_to_rgb(image), orientation)


def _to_rgb(image: Image.Image) -> np.ndarray:
    """Convert any Pillow mode to (H, W, 3) uint8."""
    if image.mode.startswith(("I", "F")):
        grey = _to_8_bit(image)
        return np.repeat(grey[:, :, None], 3, axis=2)  # (H, W, 3)
    if image.mode == "LAB":
        raise BadSample(
            "unknown_type", "L*a*b* pixels"
        )  # Pillow's convert would only relabel the channels
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))


def _to_8_bit(image: Image.Image) -> np.ndarray:
    """Scale deep grey (H, W) to uint8: [0, 65535] or, if float, [0, 1]; any other range from its own ends."""
    values = np.asarray(image).astype(np.float32)
    low, high = 0.0, 65535.0 if image.mode.startswith("I") else 1.0
    if not np.isfinite(values).all():
        raise BadSample("corrupt", "pixels that are not finite numbers")
    if values.min() < low or values.max() > high:
        low, high = float(values.min()), float(values.max())
    grey: np.ndarray = np.rint((values - low) * (255.0 / max(high - low, 1e-12))).astype(np.uint8)
    key: Any = image.info.get("transparency")
    if isinstance(key, int):
        grey[values == key] = 255  # the one transparent value of a 16-bit PNG, on white
    return grey


def check_pixels(height: int, width: int, max_pixels: int) -> None:
    """Refuse an image that is too large.

    Raises:
        BadSample: `too_many_pixels`.
    """
    if height * width > max_pixels:
        raise BadSample(
            "too_many_pixels",
            f"{height} x {width} = {height * width:,} pixels, the limit is {max_pixels:,}",
        )


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation (1..8; anything else means upright)."""
    if not 2 <= orientation <= 8:
        return image
    if orientation >= 5:
        image = image.transpose(1, 0, 2)  # (W, H, 3)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)
