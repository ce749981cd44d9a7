"""Reads the bytes of manifest rows, many requests in flight."""

import hashlib
import os
import re
from itertools import pairwise
from typing import Protocol
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa

from pipelines import schema
from pipelines.media.contract import BadSample
from pipelines.storage import uris
from pipelines.storage.retries import Refused
from pipelines.storage.threads import pool

LOCAL_THREADS = 4  # page-cache reads take microseconds; more threads only contend
LOCAL_RUNS = 32  # reads that a thread makes in turn: handing it one costs more than a small file
REMOTE_THREADS = 32  # an object store takes tens of milliseconds to answer, whatever the size
# Parts of an object with at most this much between them are read at once. A request to S3 costs a
# CPU 0.25 ms and a MiB 0.5 ms, so more would pay off still, where the network is not the limit.
GAP_BYTES = 64 << 10
# of such a request: many are in flight, one that breaks off is made again, and 4 MiB cost 6 ms
RUN_BYTES = 1 << 20

Fetched = bytes | BadSample
_Answer = Fetched | Refused


def fetch(rows: pa.Table, *, verify: bool = False) -> list[Fetched]:
    """Fetch the byte range of every row; those of one object that lie near each other with one
    request.

    Args:
        rows: Manifest rows, all on the filesystem of the first.
        verify: Check content against the manifest's etag: the MD5 of an object that was uploaded in
            one piece, the size of other objects, size and time of a local file. Members of tar
            shards have no etag of their own.

    Returns:
        For each row its bytes, or what is wrong with the object itself: `missing`, `truncated`,
        `empty`, `checksum`, or `refused` where others beside it are handed out.

    Raises:
        StorageError: the storage refused, or failed for longer than it is waited for. Never counted
            as bad data.
    """
    addresses, offsets, lengths = (
        rows[name].to_pylist() for name in (schema.URI, schema.OFFSET, schema.LENGTH)
    )
    etags = _etags(rows) if verify else [None] * len(addresses)
    local = uris.is_local(addresses[0])
    read: _Read = _read_file if local else _read_object

    def bring(turn: list[list[int]]) -> list[tuple[int, _Answer]]:
        answers: list[tuple[int, _Answer]] = []
        for run in turn:
            ranges = [(offsets[row], lengths[row]) for row in run]
            brought = _bring(read, addresses[run[0]], ranges, etags[run[0]])
            answers += zip(run, brought, strict=True)
        return answers

    runs = _runs(rows, alone=[etag is not None for etag in etags])
    at_a_time = LOCAL_RUNS if local else 1
    turns = [runs[first : first + at_a_time] for first in range(0, len(runs), at_a_time)]
    found: list[_Answer] = [b""] * len(addresses)
    threads = pool("fetch", LOCAL_THREADS if local else REMOTE_THREADS)
    for answers in threads.map(bring, turns):
        for row, answer in answers:
            found[row] = answer
    return _judged(found, addresses)


def num_requests(rows: pa.Table, *, verify: bool = False) -> int:
    """Return how many requests `fetch` makes for rows where none has to be made again."""
    if not rows.num_rows:
        return 0
    etags = _etags(rows) if verify else [None] * rows.num_rows
    return len(_runs(rows, alone=[etag is not None for etag in etags]))


def _judged(found: list[_Answer], addresses: list[str]) -> list[Fetched]:
    """Take a refusal as a fault of the object where others are handed out now, else as one of the
    whole bucket.

    Raises:
        Refused: nothing else of the bucket is handed out.
    """
    answering = {
        _bucket(uri) for uri, data in zip(addresses, found, strict=True) if isinstance(data, bytes)
    }
    judged: list[Fetched] = []
    for uri, data in zip(addresses, found, strict=True):
        if isinstance(data, Refused):
            if _bucket(uri) not in answering and not uris.hands_out_others(uri):
                raise data
            answering.add(_bucket(uri))
            judged.append(BadSample("refused", data.what))
        else:
            judged.append(data)
    return judged


def _bucket(uri: str) -> str:
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc}"


def _runs(rows: pa.Table, *, alone: list[bool]) -> list[list[int]]:
    """Divide rows into what one request reads: parts of an object that lie near each other, or one
    row."""
    uri = rows[schema.URI].combine_chunks().dictionary_encode().indices.to_numpy()
    begin = rows[schema.OFFSET].to_numpy()
    order = np.lexsort((begin, uri))
    uri = uri[order]
    begin = begin[order]
    single = np.array(alone)[order]
    gap = begin[1:] - (begin + rows[schema.LENGTH].to_numpy()[order])[:-1]
    apart = (
        (uri[1:] != uri[:-1])
        | (gap > GAP_BYTES)
        | (begin[1:] // RUN_BYTES != begin[:-1] // RUN_BYTES)
    )
    edges = [0, *(np.flatnonzero(apart | single[1:] | single[:-1]) + 1).tolist(), len(order)]
    ordered = order.tolist()
    return [ordered[start:stop] for start, stop in pairwise(edges)]


def _etags(rows: pa.Table) -> list[str | None]:
    """Return the etags of loose objects; None for members of shards."""
    pairs = zip(rows["member"].to_pylist(), rows["etag"].to_pylist(), strict=True)
    return [etag if member is None else None for member, etag in pairs]


def _bring(
    read: "_Read", uri: str, ranges: list[tuple[int, int]], etag: str | None
) -> list[_Answer]:
    """Read ranges of an object, (offset, length) in order of offset, with one request; with an
    etag, there is only one.

    Content that is not what the manifest recorded is read once more, for bytes go wrong on the way.
    """
    start = ranges[0][0]
    stop = max(offset + length for offset, length in ranges)
    try:
        data, found = read(uri, start, stop - start, etag)
        if etag is not None and found != etag:
            data, found = read(uri, start, stop - start, etag)
    except (FileNotFoundError, NotADirectoryError):
        return [
            BadSample("missing", "the object is gone since the manifest was made") for _ in ranges
        ]
    except Refused as error:
        return [error] * len(ranges)
    parts = [(data[offset - start : offset - start + length], length) for offset, length in ranges]
    return [_checked(part, length, found, etag) for part, length in parts]


def _checked(data: bytes, length: int, found: str | None, etag: str | None) -> Fetched:
    if len(data) < length:
        return BadSample("truncated", f"{len(data)} of {length} bytes are left")
    if etag is not None and found != etag:
        return BadSample(
            "checksum",
            f"damaged, or changed since the manifest was made: {found} there, {etag} expected",
        )
    return data if data else BadSample("empty", "zero bytes")


class _Read(Protocol):
    def __call__(
        self, uri: str, offset: int, length: int, etag: str | None
    ) -> tuple[bytes, str | None]:
        """Read a range; returns the bytes and, where an etag is expected, the one that the content
        has."""


def _read_file(uri: str, offset: int, length: int, etag: str | None) -> tuple[bytes, str | None]:
    try:
        descriptor = os.open(uri, os.O_RDONLY)
        try:
            stat = os.fstat(descriptor)
            return os.pread(descriptor, length, offset), f"{stat.st_size}-{stat.st_mtime_ns}"
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except PermissionError as error:
        raise Refused(uri, f"refused ({error.strerror}): check its permissions") from error
    except OSError as error:
        raise uris.StorageError(uri, f"{type(error).__name__}: {error.strerror}") from error


def _read_object(uri: str, offset: int, length: int, etag: str | None) -> tuple[bytes, str | None]:
    if etag is None:
        return uris.read_range(uri, offset, offset + length), None
    if re.fullmatch("[0-9a-f]{32}", etag):
        data = uris.read_range(uri, offset, offset + length)
        return data, hashlib.md5(data, usedforsecurity=False).hexdigest()
    # no MD5: whether the size is still the same
    data = uris.read_range(uri, offset, offset + length + 1)
    return data[:length], etag if len(data) <= length else f"more than {length} bytes"
