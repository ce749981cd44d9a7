"""Brings the files of manifest rows in pieces that fit into memory; long videos and sounds are read
by parts where they lie."""

import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import schema
from pipelines.corpus.manifest_writer import cut_by_bytes
from pipelines.media.contract import BadSample, Limits
from pipelines.storage.threads import pool
from pipelines.stream.fetch import fetch, num_requests
from pipelines.stream.stage_times import Stopwatch

PIECE_BYTES = 128 << 20  # of one fetch; as much is in use and on its way
# of one fetch of members of shards: the more of them, the more lie side by side
JOINED_BYTES = 64 << 20
# on their way, at least a block: small blocks alone would leave threads without work
ROWS_AHEAD = 64
_PREFETCHERS = 4  # pieces that are fetched at a time: two of images, two of their masks
# Longer videos are read by parts. For a clip of 25 MB on S3, 30 ms away: whole 425 ms, but ahead of
# the decoder; by parts five requests and 5.2 MB, while it waits. Twice the file takes twice as long
# whole, and the same by parts.
WHOLE_BYTES = 16 << 20
PART_REQUESTS = 5
MOST_TEXT_BYTES = 1 << 20  # of one text: a larger one is a file without line ends
PART_BYTES = 5_200_000
SAMPLED_BYTES = 64 << 10  # of either end of a file that is read by parts, to tell its content


@dataclass(frozen=True)
class FileInParts:
    """A file in storage, read by parts.

    Attributes:
        row: Its manifest row, a table of one.
    """

    row: pa.Table

    @property
    def size(self) -> int:
        """Return the bytes of the file."""
        return int(self.row[schema.LENGTH][0].as_py())

    def read(self, offset: int, length: int) -> bytes:
        """Read bytes [offset, offset + length).

        Raises:
            BadSample: the object is gone or shorter than it was.
            OSError: the storage failed.
        """
        start = self.row[schema.OFFSET][0].as_py() + offset
        row = self.row
        for name, value in ((schema.OFFSET, start), (schema.LENGTH, length)):
            row = row.set_column(
                row.schema.get_field_index(name), name, pa.array([value], pa.int64())
            )
        (data,) = fetch(row)
        if isinstance(data, BadSample):
            raise data
        return data


Payload = bytes | BadSample | FileInParts


def content_of(payload: Payload) -> int:
    """Hash a file's bytes to a signed 64-bit integer, equal for equal files; 0 for a bad sample.

    A file that is read by parts is told by its size and its two ends.

    Raises:
        BadSample, OSError: as in reading.
    """
    if isinstance(payload, BadSample):
        return 0
    hashed = hashlib.blake2b(digest_size=8)
    if isinstance(payload, FileInParts):
        hashed.update(str(payload.size).encode())
        length = min(SAMPLED_BYTES, payload.size)
        hashed.update(payload.read(0, length))
        hashed.update(payload.read(payload.size - length, length))
    else:
        hashed.update(payload)
    return int.from_bytes(hashed.digest(), "big", signed=True)


def payloads(
    blocks: Iterator[pa.Table], limits: Limits, clock: Stopwatch, *, verify: bool = False
) -> Iterator[Payload]:
    """Fetch what belongs to each row, in order; the next pieces are on their way while one is in
    use.

    Args:
        blocks: Manifest rows.
        limits: What is not fetched at all.
        clock: Counts the time waited.
        verify: Check content against the manifest's etag; nothing is then read by parts.
    """
    waiting: deque[tuple[pa.Table, Future[list[Payload]]]] = deque()
    try:
        for piece in pieces(blocks):
            coming = pool("prefetch", _PREFETCHERS).submit(_bring, piece, limits, verify)
            waiting.append((piece, coming))
            while _enough([rows for rows, _ in waiting]):
                yield from _brought(waiting.popleft()[1], clock)
        while waiting:
            yield from _brought(waiting.popleft()[1], clock)
    finally:
        for _, coming in waiting:
            coming.cancel()


def _enough(pieces: list[pa.Table]) -> bool:
    """Tell whether what follows the first piece keeps the threads busy, or all of it fills the
    memory allowed."""
    rows = sum(piece.num_rows for piece in pieces[1:])
    return rows >= ROWS_AHEAD or sum(map(_bytes, pieces)) >= 2 * PIECE_BYTES


def _bytes(rows: pa.Table) -> int:
    return int(pc.sum(rows[schema.LENGTH]).as_py())


def _brought(coming: Future[list[Payload]], clock: Stopwatch) -> list[Payload]:
    with clock.time("fetch"):
        return coming.result()


def pieces(blocks: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Cut blocks where what they hold exceeds `PIECE_BYTES`, once those of members of shards are
    joined."""
    for joined in _joined(blocks):
        yield from cut_by_bytes(joined, PIECE_BYTES)


def _joined(blocks: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Join blocks of members of shards until they hold `JOINED_BYTES`."""
    waiting = list[pa.Table]()
    size = 0
    for block in blocks:
        waiting.append(block)
        size += _bytes(block)
        if block["member"].null_count or size >= JOINED_BYTES:
            yield pa.concat_tables(waiting)
            waiting = []
            size = 0
    if waiting:
        yield pa.concat_tables(waiting)


def reads(blocks: Iterator[pa.Table], limits: Limits, *, verify: bool = False) -> tuple[int, int]:
    """Return the requests and the bytes of `payloads` for blocks; of what is read by parts, those
    of a clip as it was measured."""
    requests = 0
    size = 0
    for rows in pieces(blocks):
        too_large, by_parts = _apart(rows, limits, verify)
        whole = rows.filter(pa.array(~(too_large | by_parts)))
        requests += num_requests(whole, verify=verify) + PART_REQUESTS * int(by_parts.sum())
        size += (_bytes(whole) if whole.num_rows else 0) + PART_BYTES * int(by_parts.sum())
    return requests, size


def _apart(rows: pa.Table, limits: Limits, verify: bool) -> tuple[np.ndarray, np.ndarray]:
    """Tell which rows are not fetched at all, and which are read by parts, (B,) each."""
    length = rows[schema.LENGTH].to_numpy()
    media = np.array(rows[schema.MEDIA])
    in_parts = (media == schema.VIDEO) | (media == schema.AUDIO)  # what can be sought in
    too_large = length > _most_bytes(rows, limits)
    return too_large, in_parts & (length > WHOLE_BYTES) & ~too_large & (not verify)


def _most_bytes(rows: pa.Table, limits: Limits) -> np.ndarray:
    """Return how many bytes each row may have, (B,)."""
    is_text = np.array(rows[schema.MEDIA]) == schema.TEXT
    return np.where(is_text, min(MOST_TEXT_BYTES, limits.max_bytes), limits.max_bytes)


def _bring(rows: pa.Table, limits: Limits, verify: bool) -> list[Payload]:
    length = rows[schema.LENGTH].to_numpy()
    too_large, by_parts = _apart(rows, limits, verify)
    whole = rows.filter(pa.array(~(too_large | by_parts)))
    fetched = iter(fetch(whole, verify=verify) if whole.num_rows else ())
    found = list[Payload]()
    most = _most_bytes(rows, limits)
    for index in range(rows.num_rows):
        if too_large[index]:
            found.append(
                BadSample("too_large", f"{length[index]:,} bytes, the limit is {most[index]:,}")
            )
        else:
            found.append(FileInParts(rows.slice(index, 1)) if by_parts[index] else next(fetched))
    return found
