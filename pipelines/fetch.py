"""Reads the bytes of manifest rows, many requests in flight."""

import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Protocol

import pyarrow as pa

from pipelines import schema, storage
from pipelines.decode import BadSample

LOCAL_THREADS = 4  # page-cache reads take microseconds; more threads only contend
REMOTE_THREADS = 32  # an object store takes tens of milliseconds to answer, whatever the size

Fetched = bytes | BadSample


def fetch(rows: pa.Table, *, verify: bool = False) -> list[Fetched]:
    """Fetch the byte range of every row.

    Args:
        rows: Manifest rows, all on the filesystem of the first.
        verify: Check content against the manifest's etag: the MD5 of an object that was uploaded in one piece, the
            size of other objects, size and time of a local file. Members of tar shards have no etag of their own.

    Returns:
        For each row its bytes, or what is wrong with the object itself (`missing`, `truncated`, `empty`, `checksum`).

    Raises:
        StorageError: the storage refused, or failed for longer than it is waited for. Never counted as bad data.
    """
    uris, offsets, lengths = (rows[name].to_pylist() for name in (schema.URI, schema.OFFSET, schema.LENGTH))
    etags = _etags(rows) if verify else [None] * len(uris)
    read: _Read = _read_file if storage.is_local(uris[0]) else _read_object
    threads = _threads(LOCAL_THREADS if storage.is_local(uris[0]) else REMOTE_THREADS)
    return list(threads.map(partial(_payload, read), uris, offsets, lengths, etags))


def _etags(rows: pa.Table) -> list[str | None]:
    """Etags of loose objects; None for members of shards."""
    pairs = zip(rows["member"].to_pylist(), rows["etag"].to_pylist(), strict=True)
    return [etag if member is None else None for member, etag in pairs]


@lru_cache(maxsize=2)
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="fetch")


def _payload(read: "_Read", uri: str, offset: int, length: int, etag: str | None) -> Fetched:
    """Read one row; content that is not what the manifest recorded is read once more, for bytes go wrong on the way."""
    try:
        data, found = read(uri, offset, length, etag)
        if etag is not None and found != etag:
            data, found = read(uri, offset, length, etag)
    except (FileNotFoundError, NotADirectoryError):
        return BadSample("missing", "the object is gone since the manifest was made")
    if len(data) < length:
        return BadSample("truncated", f"{len(data)} of {length} bytes are left")
    if etag is not None and found != etag:
        return BadSample("checksum", f"damaged, or changed since the manifest was made: {found} there, {etag} expected")
    return data if data else BadSample("empty", "zero bytes")


class _Read(Protocol):
    def __call__(self, uri: str, offset: int, length: int, etag: str | None) -> tuple[bytes, str | None]:
        """Read a range; returns the bytes and, where an etag is expected, the one that the content has."""


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
    except OSError as error:
        raise storage.StorageError(uri, f"{type(error).__name__}: {error.strerror}") from error


def _read_object(uri: str, offset: int, length: int, etag: str | None) -> tuple[bytes, str | None]:
    if etag is None:
        return storage.read_range(uri, offset, offset + length), None
    if re.fullmatch("[0-9a-f]{32}", etag):
        data = storage.read_range(uri, offset, offset + length)
        return data, hashlib.md5(data, usedforsecurity=False).hexdigest()
    data = storage.read_range(uri, offset, offset + length + 1)  # no MD5: whether the size is still the same
    return data[:length], etag if len(data) <= length else f"more than {length} bytes"
