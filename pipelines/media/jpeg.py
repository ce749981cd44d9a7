"""Decode JPEG, nearly all of the web's images, with libjpeg-turbo."""

import math
import struct
from dataclasses import dataclass

import numpy as np
import simplejpeg

from augment.picture import Picture
from pipelines.media.contract import BadSample, Reduce, check_pixels

_ORIENTATION = 0x0112
# libjpeg-turbo's strict mode stops at every warning. These concern the header, not the pixels;
# Pillow ignores them and still refuses a truncated file.
_HARMLESS = ("Invalid SOS parameters", "Warning: unknown JFIF", "Unknown Adobe color")
_EXIF = 0xE1
_COMMENT = 0xFE
_SCAN = 0xDA
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_MOST_SEGMENTS = 4096  # looked at; more of them are not read here


@dataclass(frozen=True)
class JpegHeader:
    """What is known of a JPEG file before it is decoded.

    Attributes:
        height, width: Of the upright image, px.
        orientation: Of EXIF, 1 to 8.
        num_scans: How often the decoder goes over the pixels; None: not to be told.
    """

    height: int
    width: int
    orientation: int
    num_scans: int | None

    @property
    def work(self) -> float:
        """Return pixels times scans, to which the time of decoding is in proportion at most."""
        if self.num_scans is None:
            return math.inf
        return float(self.height * self.width * self.num_scans)

    def reduction(self, reduce: Reduce | None) -> int:
        """Return how much smaller the image is decoded, as far as `reduce` allows."""
        reduction = 1 if reduce is None else reduce(self.height, self.width)
        # mirrored, a last pixel that is only partly there would come first
        if self.orientation != 1:
            reduction = math.gcd(reduction, self.height, self.width)
        return reduction


def read_header(data: bytes, max_pixels: int) -> JpegHeader | None:
    """Read the header of a JPEG file; None where Pillow has to be asked.

    Raises:
        BadSample: the file is empty, or the image is too large.
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
    # CMYK and YCCK: simplejpeg ignores Adobe's inversion.
    if colorspace not in ("YCbCr", "Gray", "RGB"):
        return None
    orientation, num_scans = _survey(data)
    if 5 <= orientation <= 8:
        height, width = width, height
    return JpegHeader(height, width, orientation, num_scans)


def decode_jpeg(
    data: bytes, *, max_pixels: int, allow_truncated: bool = False, reduce: Reduce | None = None
) -> Picture | None:
    """Decode as `image.decode` does, or return None where Pillow has to be asked.

    Args:
        data: The whole file.
        max_pixels: As in `image.decode`, of the file's image.
        allow_truncated: As in `image.decode`.
        reduce: Says how much smaller the upright image may be decoded, by leaving out frequencies;
            None: all pixels.
    """
    header = read_header(data, max_pixels)
    if header is None:
        return None
    return decode_pixels(data, header, header.reduction(reduce), allow_truncated=allow_truncated)


def decode_pixels(
    data: bytes, header: JpegHeader, reduction: int, *, allow_truncated: bool
) -> Picture | None:
    """Decode a file whose header was read; see `decode_jpeg`."""
    turned = 5 <= header.orientation <= 8
    height, width = (header.width, header.height) if turned else (header.height, header.width)
    size = {"min_height": -(-height // reduction), "min_width": -(-width // reduction)}
    try:
        # Strict: half an image is an error, not a grey half.
        image = simplejpeg.decode_jpeg(data, "RGB", **size)
    except ValueError as error:
        message = str(error)
        if message.startswith(_HARMLESS) or "Unsupported" in message:
            return None
        truncated = "premature end" in message.lower()
        if not (truncated and allow_truncated):
            raise BadSample("truncated" if truncated else "corrupt", message) from error
        image = simplejpeg.decode_jpeg(data, "RGB", strict=False, **size)
    pixels = upright(image, header.orientation)
    return Picture(pixels, header.height, header.width, reduction)


def _survey(data: bytes) -> tuple[int, int | None]:
    """Read the EXIF orientation, 1 where there is none, and count the scans; None if that fails.

    Opening the file in Pillow for this would cost more than 3 % of decoding.
    """
    start = 2
    frame = 0
    num_components = 0
    orientation = 1
    before_image = True
    for _ in range(_MOST_SEGMENTS):
        if start + 10 > len(data) or data[start] != 0xFF:
            break
        marker, length = struct.unpack_from(">xBH", data, start)
        if marker == 0xFF:  # padding
            start += 1
            continue
        if marker == _EXIF and before_image and data.startswith(b"Exif\0\0", start + 4):
            orientation = _tiff_orientation(data[start + 10 : start + 2 + length])
            before_image = False
        elif not 0xE0 <= marker <= 0xEF and marker != _COMMENT:
            before_image = False
        if marker in _FRAMES:
            frame = marker
            num_components = data[start + 9]
        elif marker == _SCAN:
            if frame in _PROGRESSIVE or data[start + 4] < num_components:
                return orientation, data.count(b"\xff\xda", start)
            return orientation, 1
        start += 2 + length
    return orientation, None


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


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
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
