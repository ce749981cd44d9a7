"""What a file holds, told by its name and, where asked for, by its first bytes; nothing else of it
is looked at."""

import os
import tarfile
from collections.abc import Callable
from functools import cache
from typing import Literal, NamedTuple

from pipelines import schema

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".gif", ".bmp"),
    *(".jp2", ".avif", ".ico", ".tga", ".ppm", ".pgm", ".pbm", ".pnm", ".jfi", ".apng", ".dib"),
    *(".j2k", ".j2c", ".jpx", ".jpf", ".mpo", ".qoi", ".icns", ".pcx", ".psd", ".sgi", ".dds"),
    *(".fli", ".flc"),
)
VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg"),
    *(".flv", ".3gp", ".3g2", ".ogv", ".wmv", ".asf"),
)
AUDIO_SUFFIXES = (
    *(".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".aif", ".aiff"),
)
LINE_SUFFIXES = (".txt", ".text")
OBJECT_SUFFIXES = (".jsonl", ".ndjson")
TABLE_SUFFIXES = (".csv", ".tsv")
TEXT_SUFFIXES = (*LINE_SUFFIXES, *OBJECT_SUFFIXES, *TABLE_SUFFIXES)
COMPRESSED_TAR = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")
IMAGE = "image"
Medium = Literal["pictures", "audio", "text"]
"""What a corpus is listed for: images and videos, sound, or texts."""
MEDIA_OF: dict[Medium, tuple[str, ...]] = {
    "pictures": (IMAGE, schema.VIDEO),
    "audio": (schema.AUDIO,),
    "text": (schema.TEXT,),
}
"""The media whose files are then samples."""
_NAMES: dict[Medium, str] = {"pictures": "image", "audio": "sound", "text": "text"}
TAR = "tar"
COMPRESSED = "compressed"
HEAD_BYTES = 512  # a tar's magic lies at 257; no other is further in
LONG_SUFFIX = 12  # more than that is no suffix but a sentence with a dot in it

# Formats that `pipelines.media.image` decodes, as Pillow names them, and the suffix each gets in a
# shard. Truevision's TGA is left out: it has no first bytes of its own.
_STILL = {
    "JPEG": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "TIFF": "tif",
    "GIF": "gif",
    "AVIF": "avif",
    "JPEG2000": "jp2",
    "QOI": "qoi",
    "PSD": "psd",
    "ICNS": "icns",
    "DDS": "dds",
    "SGI": "sgi",
    "FLI": "fli",
    "ICO": "ico",
    "PPM": "ppm",
    "PCX": "pcx",
    "BMP": "bmp",
}
_SQUEEZED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")
# Still pictures in the container of MP4 files: AVIF is Pillow's, the others nobody here decodes.
_STILL_BRANDS = (b"avif", b"avis", b"mif1", b"msf1", b"heic", b"heix", b"heim", b"heis", b"hevc")
_MOVIE_ATOMS = (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_SOUND_BRANDS = (b"M4A ", b"M4B ")
_OGG_SOUND = (b"\x01vorbis", b"OpusHead", b"\x7fFLAC", b"Speex   ")
_OGG_VIDEO = (b"\x80theora", b"\x01video", b"BBCD\0", b"OVP80")


def medium_of(media: str) -> Medium:
    """Return of which medium a method's samples are: `image`, `clip`, `audio` or `text`."""
    if media == schema.AUDIO:
        return "audio"
    return "text" if media == schema.TEXT else "pictures"


class Kind(NamedTuple):
    """What a file holds.

    Attributes:
        what: `image`, `video`, `audio`, `text`, `tar`, `compressed`, or nothing where it is no
            sample of any medium.
        suffix: The usual one, without its dot; empty where it is not known.
    """

    what: str
    suffix: str = ""


NOTHING = Kind("")


def kind_of(name: str) -> Kind:
    """Tell what a file holds by its suffix."""
    lower = name.lower()
    suffix = suffix_of(lower)
    if suffix in IMAGE_SUFFIXES:
        return Kind(IMAGE, suffix[1:])
    if suffix in VIDEO_SUFFIXES:
        return Kind(schema.VIDEO, suffix[1:])
    if suffix in AUDIO_SUFFIXES:
        return Kind(schema.AUDIO, suffix[1:])
    if suffix in TEXT_SUFFIXES:
        return Kind(schema.TEXT, suffix[1:])
    if suffix == ".tar":
        return Kind(TAR)
    return Kind(COMPRESSED) if lower.endswith(COMPRESSED_TAR) else NOTHING


def media_of(name: str) -> str | None:
    """Tell what a file holds by its suffix: `image` or `video`, or None where it is no sample."""
    what = kind_of(name).what
    return what if what in (IMAGE, schema.VIDEO) else None


def is_one_text(name: str) -> bool:
    """Tell of a member of a shard that is text whether it is one, not a file of several."""
    return suffix_of(name) in LINE_SUFFIXES


def suffix_of(name: str) -> str:
    """Return the suffix of a file name in small letters, with its dot; empty where there is
    none."""
    return os.path.splitext(name.lower())[1]


def no_sample(name: str, medium: Medium = "pictures") -> str:
    """Say why a file is left out whose name tells of no sample of a medium."""
    suffix = suffix_of(name) or "no suffix"
    return f"no {_NAMES[medium]} ({suffix if len(suffix) <= LONG_SUFFIX else 'odd suffix'})"


def no_content(medium: Medium) -> str:
    """Say why a file is left out whose first bytes tell of no sample of a medium."""
    return f"no {_NAMES[medium]} (by name or content)"


def kind_of_bytes(head: bytes) -> Kind:
    """Tell what a file holds by its first `HEAD_BYTES`, as its decoder would."""
    if head.startswith(_SQUEEZED):
        return Kind(COMPRESSED)
    if suffix := _video(head):
        return Kind(schema.VIDEO, suffix)
    if suffix := _image(head[:16]):
        return Kind(IMAGE, suffix)
    if suffix := _audio(head):
        return Kind(schema.AUDIO, suffix)
    return Kind(TAR) if _is_tar(head) else NOTHING


def sample_in(head: bytes) -> str:
    """Tell by its first bytes whether a file of no telling name is an image, a video, a sound or a
    tar; empty for the rest."""
    what = kind_of_bytes(head).what
    return "" if what == COMPRESSED else what


@cache
def _decoders() -> list[tuple[str, Callable[[bytes], bool | str]]]:
    """Return Pillow's own tests of first bytes with the suffix of each; imported once somebody
    asks."""
    from PIL import Image

    Image.init()
    tests = ((suffix, Image.OPEN[name][1]) for name, suffix in _STILL.items() if name in Image.OPEN)
    return [(suffix, accepts) for suffix, accepts in tests if accepts is not None]


def _image(prefix: bytes) -> str:
    # Pillow answers with a text where it knows a format and this build cannot read it.
    found = (suffix for suffix, accepts in _decoders() if accepts(prefix) is True)
    return next(found, "") if len(prefix) > 3 else ""


def _video(head: bytes) -> str:
    """Return the suffix of a video's container, empty for anything else."""
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        if brand in _STILL_BRANDS or brand in _SOUND_BRANDS:
            return ""
        return "mov" if brand == b"qt  " else "mp4"
    if head[4:8] in _MOVIE_ATOMS:
        return "mov"
    if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        return "avi"
    if head.startswith(b"\x1aE\xdf\xa3"):
        return "mkv"
    if head.startswith(b"FLV\x01"):
        return "flv"
    if head.startswith((b"\0\0\x01\xba", b"\0\0\x01\xb3")):
        return "mpg"
    if head.startswith(b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"):
        return "wmv"
    if head.startswith(b"OggS"):
        return "ogv" if any(codec in head for codec in _OGG_VIDEO) else ""
    return _transport_stream(head)


def _audio(head: bytes) -> str:
    """Return the suffix of a sound's container, empty for anything else."""
    if head.startswith((b"RIFF", b"RIFX", b"RF64")) and head[8:12] == b"WAVE":
        return "wav"
    if head.startswith(b"FORM") and head[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    if head[4:8] == b"ftyp" and head[8:12] in _SOUND_BRANDS:
        return "m4a"
    if head.startswith(b"OggS"):
        return "ogg" if any(codec in head for codec in _OGG_SOUND) else ""
    known = {b"fLaC": "flac", b"ID3": "mp3"}
    if found := next((suffix for magic, suffix in known.items() if head.startswith(magic)), ""):
        return found
    # a frame of MPEG's third layer without any tag: its sync word, a rate and a bit rate
    is_layer_3 = len(head) > 2 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2
    return "mp3" if is_layer_3 and head[2] >> 4 not in (0, 15) and head[2] & 12 != 12 else ""


def _transport_stream(head: bytes) -> str:
    """Tell MPEG transport streams by the byte that begins each packet of 188, or of 192 with its
    time."""
    for suffix, first, size in (("ts", 0, 188), ("m2ts", 4, 192)):
        if len(head) > first + 2 * size and set(head[first : first + 2 * size + 1 : size]) == {
            0x47
        }:
            return suffix
    return ""


def _is_tar(head: bytes) -> bool:
    """Tell a tar by the check sum of its first header, which all of its dialects have."""
    try:
        tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True
