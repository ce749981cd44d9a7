"""Brings the files of manifest rows in pieces that fit into memory; long videos are read by parts where they lie."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa

from pipelines import schema
from pipelines.decode import BadSample, Limits
from pipelines.fetch import fetch

PIECE_BYTES = 128 << 20  # of one fetch; one piece is in use and one on its way
# Longer videos are read by parts. For a clip of 25 MB on S3, 30 ms away: whole 425 ms, but ahead of the decoder; by
# parts five requests and 5.2 MB, while it waits. Twice the file takes twice as long whole, and the same by parts.
WHOLE_BYTES = 16 << 20


@dataclass(frozen=True)
class Part:
    """A file in storage, read by parts.

    Attributes:
        row: Its manifest row, a table of one.
    """

    row: pa.Table

    @property
    def size(self) -> int:
        """Bytes of the file."""
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
            row = row.set_column(row.schema.get_field_index(name), name, pa.array([value], pa.int64()))
        (data,) = fetch(row)
        if isinstance(data, BadSample):
            raise data
        return data


Payload = bytes | BadSample | Part


def payloads(blocks: Iterator[pa.Table], limits: Limits) -> Iterator[Payload]:
    """Fetch what belongs to each row, in order; the next piece is on its way while one is in use."""
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as ahead:
        waiting: Future[list[Payload]] | None = None
        for piece in pieces(blocks):
            coming = ahead.submit(_bring, piece, limits)
            if waiting:
                yield from waiting.result()
            waiting = coming
        if waiting:
            yield from waiting.result()


def pieces(blocks: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Cut blocks where what they hold exceeds `PIECE_BYTES`."""
    for block in blocks:
        ends = np.cumsum(block[schema.LENGTH].to_numpy()) // PIECE_BYTES
        edges = [0, *(np.flatnonzero(np.diff(ends)) + 1), block.num_rows]
        yield from (block.slice(start, stop - start) for start, stop in pairwise(edges))


def _bring(rows: pa.Table, limits: Limits) -> list[Payload]:
    length, is_video = rows[schema.LENGTH].to_numpy(), np.array(rows[schema.MEDIA]) == schema.VIDEO
    too_large = length > limits.max_bytes
    by_parts = is_video & (length > WHOLE_BYTES) & ~too_large
    whole = rows.filter(pa.array(~(too_large | by_parts)))
    fetched = iter(fetch(whole) if whole.num_rows else ())
    found = list[Payload]()
    for index in range(rows.num_rows):
        if too_large[index]:
            found.append(BadSample("too_large", f"{length[index]:,} bytes, the limit is {limits.max_bytes:,}"))
        else:
            found.append(Part(rows.slice(index, 1)) if by_parts[index] else next(fetched))
    return found
