"""Reads the bytes of manifest rows, many requests in flight."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import pyarrow as pa

from pipelines import schema, storage
from pipelines.decode import BadSample

LOCAL_THREADS = 4  # page-cache reads take microseconds; more threads only contend


def fetch(rows: pa.Table) -> list[bytes | BadSample]:
    """Fetch the byte range of every row.

    Args:
        rows: Manifest rows, all on the filesystem of the first.

    Returns:
        For each row its bytes, or what is wrong with the object itself (`missing`, `truncated`, `empty`).

    Raises:
        OSError: the storage failed or refused after the client's retries; names the URI. Never counted as bad data.
    """
    uris, offsets, lengths = (rows[name].to_pylist() for name in (schema.URI, schema.OFFSET, schema.LENGTH))
    read = _read_local if storage.is_local(uris[0]) else _read_remote
    found = read(uris, offsets, lengths)
    return [_checked(uri, length, data) for uri, length, data in zip(uris, lengths, found, strict=True)]


def _read_local(uris: list[str], offsets: list[int], lengths: list[int]) -> list[bytes | Exception]:
    return list(_threads().map(_read_file, uris, offsets, lengths))


@lru_cache(maxsize=1)
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(LOCAL_THREADS, thread_name_prefix="fetch")


def _read_file(path: str, offset: int, length: int) -> bytes | Exception:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        return error
    try:
        return os.pread(descriptor, length, offset)
    except OSError as error:
        return error
    finally:
        os.close(descriptor)


def _read_remote(uris: list[str], offsets: list[int], lengths: list[int]) -> list[bytes | Exception]:
    fs, _ = storage.filesystem(uris[0])
    paths = [fs._strip_protocol(uri) for uri in uris]
    ends = [offset + length for offset, length in zip(offsets, lengths, strict=True)]
    found: list[bytes | Exception] = fs.cat_ranges(paths, offsets, ends, on_error="return")
    return found


def _checked(uri: str, length: int, data: bytes | Exception) -> bytes | BadSample:
    if isinstance(data, FileNotFoundError):
        return BadSample("missing", "the object is gone since the manifest was made")
    if isinstance(data, Exception):
        raise OSError(f"cannot read {uri}: {type(data).__name__}: {data}") from data
    if len(data) < length:
        return BadSample("truncated", f"{len(data)} of {length} bytes are left")
    return data if data else BadSample("empty", "zero bytes")
