"""What is wrong with the bytes of a video or sound that cannot be read on, or ends too early."""

from typing import Protocol

from pipelines.media.contract import BadSample

_MAGIC = (
    *(b"\x1aE\xdf\xa3", b"RIFF", b"FLV", b"OggS", b"\0\0\1\xba", b"\0\0\1\xb3", b"\0\0\0\1"),
    *(b"0&\xb2u", b"\x06\x0e\x2b\x34", b".RMF", b"DKIF"),
    *(b"fLaC", b"ID3", b"FORM", b"\xff\xfa", b"\xff\xfb", b"\xff\xf1", b"\xff\xf9"),
)
_MP4_BOXES = (
    *(b"ftyp", b"moov", b"mdat", b"moof", b"free", b"skip"),
    *(b"wide", b"styp", b"sidx", b"uuid", b"meta", b"pnot"),
)
_MOST_CHUNKS = 1000  # looked at: each is a request where the file is read by parts


class Seekable(Protocol):
    """What is asked of a file."""

    def read(self, size: int = ..., /) -> bytes:
        """Read the next bytes."""

    def seek(self, offset: int, whence: int = ..., /) -> int:
        """Move to a place."""


def diagnosis(file: Seekable, error: Exception) -> BadSample:
    """Say what is wrong with bytes that FFmpeg cannot read on."""
    message = f"{type(error).__name__}: {error}"
    file.seek(0)
    head = file.read(512)
    # MPEG-TS and M2TS packets.
    is_stream = b"G" in (head[:1], head[4:5]) and b"G" in (head[188:189], head[196:197])
    if not (head.startswith(_MAGIC) or head[4:8] in _MP4_BOXES or is_stream):
        return BadSample(
            "unknown_type", f"no known format of video or sound, begins with {head[:16]!r}"
        )
    return BadSample("truncated" if is_cut(file) else "corrupt", message)


def is_cut(file: Seekable) -> bool | None:
    """Tell whether the last box of an MP4 file, or chunk of an AVI file, goes on behind the file's
    end.

    Returns:
        None where the format does not tell: it is another one, or a length was never filled in.
    """
    file.seek(0)
    head = file.read(16)
    if head[4:8] in _MP4_BOXES:
        length_of = _box_length
    elif head.startswith(b"RIFF"):
        length_of = _chunk_length
    else:
        return None
    size = file.seek(0, 2)
    begin = 0
    for _ in range(_MOST_CHUNKS):
        if begin >= size:
            return begin > size
        file.seek(begin)
        length = length_of(file.read(16), size - begin)
        if length is None:
            return None
        begin += length
    return None


def _box_length(header: bytes, left: int) -> int | None:
    """Return the length of a box of an MP4 file."""
    length = int.from_bytes(header[:4], "big")
    if length == 1:  # it follows as 64 bits
        length = int.from_bytes(header[8:16], "big")
    if length == 0:  # up to the end
        return left
    return length if length >= 8 else None


def _chunk_length(header: bytes, left: int) -> int | None:
    """Return the length of a chunk of an AVI file, of which a large file has several."""
    length = int.from_bytes(header[4:8], "little")
    if not header.startswith(b"RIFF"):  # something appended behind the last one
        return left
    return 8 + length + length % 2 if 0 < length < 0xFFFFFFFF else None
