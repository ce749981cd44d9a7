"""Reads the frames of a sequence in their order, a few at a time."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa

from pipelines import schema
from pipelines.corpus.file_kinds import IMAGE
from pipelines.media.contract import BadSample, Limits
from pipelines.media.decoder import PROCESS, kept_decoder
from pipelines.sequences.sequences import Place, Point, Sequence
from pipelines.stream.fetch import Fetched, fetch

AT_ONCE = 8  # frames that are decoded and encoded together
_Pixels = TypeVar("_Pixels")


@dataclass(frozen=True, eq=False)
class Read:
    """A frame as it was read.

    Attributes:
        index: Its place in the sequence.
        is_last: Whether no frame follows.
        pixels: (H, W, 3) uint8.
        mask: Values as in the file, (H, W) uint8; None: there is none, or it cannot be read.
        points: Its key points.
    """

    index: int
    is_last: bool
    pixels: np.ndarray
    mask: np.ndarray | None = None
    points: tuple[Point, ...] = ()


def read_in_order(
    sequence: Sequence, limits: Limits, unreadable: Counter[str]
) -> Iterator[list[Read]]:
    """Yield the frames of a sequence, a few at a time, without those that cannot be read.

    Args:
        sequence: The frames.
        limits: What a file may cost.
        unreadable: Counts what cannot be read, by reason.

    Raises:
        StorageError: the storage failed.
    """
    decoder = kept_decoder(limits, PROCESS)
    last = len(sequence.frames) - 1
    for at in range(0, len(sequence.frames), AT_ONCE):
        frames = sequence.frames[at : at + AT_ONCE]
        images = _fetched([frame.image for frame in frames], limits)
        masks = iter(_fetched([frame.mask for frame in frames if frame.mask], limits))
        read = []
        for index, (frame, data) in enumerate(zip(frames, images, strict=True), start=at):
            mask = None
            if frame.mask:
                mask = _decoded(decoder.indices, next(masks), "mask", unreadable)
            picture = _decoded(decoder.image, data, "frame", unreadable)
            if picture is not None:
                read.append(Read(index, index == last, picture.pixels, mask, frame.points))
        if read:
            yield read


def _fetched(places: list[Place], limits: Limits) -> list[Fetched]:
    """Fetch files, but for those that are too large."""
    wanted = [place for place in places if place.length <= limits.max_bytes]
    payloads = iter(fetch(rows_of(wanted)) if wanted else [])
    large = BadSample("too_large", f"more than {limits.max_bytes} bytes")
    return [next(payloads) if place.length <= limits.max_bytes else large for place in places]


def rows_of(places: list[Place]) -> pa.Table:
    """Return manifest rows of files that hold an image each, numbered from 0 on."""
    count = len(places)
    columns = {
        schema.SAMPLE_ID: range(count),
        schema.URI: [place.uri for place in places],
        schema.OFFSET: [place.offset for place in places],
        schema.LENGTH: [place.length for place in places],
        schema.MEMBER: [None] * count,
        "etag": [""] * count,
        schema.MEDIA: [IMAGE] * count,
        schema.CLIP: [None] * count,
    }
    return pa.table(columns, schema=schema.MANIFEST)


def _decoded(
    decode: Callable[[bytes], _Pixels], data: Fetched, what: str, unreadable: Counter[str]
) -> _Pixels | None:
    try:
        if isinstance(data, BadSample):
            raise data
        return decode(data)
    except BadSample as problem:
        unreadable[f"{what}: {problem.reason}"] += 1
        return None
