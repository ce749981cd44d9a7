"""Finds the samples of a folder, prefix, glob or tar shards: listed by Ray tasks, streamed as manifest rows."""

import hashlib
import os
import tarfile
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import ray.data
from braceexpand import braceexpand

from pipelines import schema, storage

IMAGE_SUFFIXES = (
    *(
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".tif",
        ".tiff",
        ".gif",
        ".bmp",
        ".jp2",
        ".avif",
        ".ico",
        ".tga",
    ),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
COMPRESSED_TAR = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
ROWS_PER_TABLE = 8192
LEFT_OUT = pa.field("left_out", pa.string())  # why a file is no sample; null for samples
MESSAGE = pa.field("message", pa.string())  # more of it, for a person
LISTED = schema.MANIFEST.append(LEFT_OUT).append(MESSAGE)

Entry = tuple[str, int, str]  # uri, bytes, etag


def media_of(name: str) -> str | None:
    """Tell what a file holds by its suffix: `image`, or None where it is no sample."""
    return "image" if _suffix(name) in IMAGE_SUFFIXES else None


def _suffix(name: str) -> str:
    return os.path.splitext(name.lower())[1]


def sample_id(uri: str, member: str | None, etag: str, clip: int = 0) -> int:
    """Hash what identifies a sample's content to a signed 64-bit id."""
    key = "\0".join([uri, member or "", str(clip), etag]).encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big", signed=True)


def list_source(uri: str) -> Iterator[pa.Table]:
    """List a source in parallel by prefix.

    Args:
        uri: A folder or prefix (walked whole), a glob, or `.tar` shards, brace patterns expanded.

    Yields:
        Tables of schema `LISTED`, in no order; at most a few thousand rows in memory at a time.

    Raises:
        ValueError: the source is missing or refused, with the remedy.
    """
    places = [place for pattern in braceexpand(storage.absolute(uri)) for place in _places(pattern)]
    dataset = ray.data.from_items(places, override_num_blocks=max(1, min(len(places), 512)))
    dataset.context.execution_no_progress_timeout_s = -1  # a prefix may take hours to list
    dataset.context.execution_options.preserve_order = True  # a shard's members stay together
    listed = dataset.map_batches(_list_places, batch_size=None, batch_format="pyarrow")
    yield from listed.iter_batches(batch_size=None, batch_format="pyarrow")


def _places(pattern: str) -> list[dict[str, Any]]:
    """Split one pattern into independently listable places: files, and folders to walk."""
    fs, path = storage.filesystem(pattern)
    if any(char in path for char in "*?["):
        found = fs.glob(path)
        if not found:
            raise ValueError(f"source.uri {pattern} matches nothing: check the pattern")
        return [{"uri": _uri(pattern, name), "walk": bool(fs.isdir(name))} for name in found]
    problem = storage.reachable(pattern)
    if problem:
        raise ValueError(f"source.uri {problem}")
    if not fs.isdir(path):
        return [{"uri": pattern, "walk": False}]
    folders = [_uri(pattern, entry["name"]) for entry in fs.ls(path, detail=True) if _walkable(entry)]
    return [{"uri": storage.join(pattern, ""), "walk": False}, *({"uri": folder, "walk": True} for folder in folders)]


def _walkable(entry: dict[str, Any]) -> bool:
    """Folders are followed, links to folders are not: they may lead in circles."""
    return entry["type"] == "directory" and not entry.get("islink") and not _hidden(entry["name"])


def _hidden(path: str) -> bool:
    return path.rstrip("/").rpartition("/")[2].startswith(".")


def _uri(like: str, path: str) -> str:
    """Give a filesystem's path the scheme of the URI it came from."""
    return path if storage.is_local(like) else f"{like.split('://')[0]}://{path.lstrip('/')}"


def _list_places(places: pa.Table) -> Iterator[pa.Table]:
    rows: list[dict[str, Any]] = []
    for place in places.to_pylist():
        for entry in _entries(place["uri"], walk=place["walk"]):
            for row in _rows(entry):
                rows.append(row)
                if len(rows) >= ROWS_PER_TABLE:
                    yield pa.Table.from_pylist(rows, schema=LISTED)
                    rows = []
    yield pa.Table.from_pylist(rows, schema=LISTED)


def _entries(uri: str, *, walk: bool) -> Iterator[Entry]:
    """Files of a folder: at any depth with `walk`, its own where the URI ends with a slash; else the file itself."""
    if storage.is_local(uri):
        yield from _local_entries(uri, walk=walk)
        return
    fs, path = storage.filesystem(uri)
    if not walk and not uri.endswith("/"):
        yield _remote_entry(uri, fs.info(path))
        return
    for _, _, files in fs.walk(path, maxdepth=None if walk else 1, detail=True):
        for info in files.values():
            if info["name"].rstrip("/") != path.rstrip("/"):  # the folder's own marker object
                yield _remote_entry(uri, info)


def _remote_entry(uri: str, info: dict[str, Any]) -> Entry:
    etag = str(info.get("ETag") or info.get("etag") or info.get("LastModified") or "").strip('"')
    return _uri(uri, info["name"]), int(info["size"] or 0), etag


def _local_entries(path: str, *, walk: bool) -> Iterator[Entry]:
    if not os.path.isdir(path):
        stat = os.stat(path)
        yield path, stat.st_size, f"{stat.st_size}-{stat.st_mtime_ns}"
        return
    with os.scandir(path) as entries:
        for entry in entries:
            if walk and entry.is_dir(follow_symlinks=False) and not _hidden(entry.name):
                yield from _local_entries(entry.path, walk=True)
            elif entry.is_file():
                stat = entry.stat()
                yield entry.path, stat.st_size, f"{stat.st_size}-{stat.st_mtime_ns}"


def _rows(entry: Entry) -> Iterable[dict[str, Any]]:
    uri, size, etag = entry
    name = uri.lower()
    if _hidden(uri):
        return [_row(uri, 0, size, None, etag, left_out="hidden file")]
    if name.endswith(".tar"):
        return _tar_rows(uri, etag)
    if name.endswith(COMPRESSED_TAR):
        raise ValueError(f"source.uri: {uri} is compressed, so its members cannot be read by range: unpack it to .tar")
    return [_row(uri, 0, size, None, etag, left_out=_left_out(uri, size))]


def _tar_rows(uri: str, etag: str) -> Iterator[dict[str, Any]]:
    """Address every image member of a shard as a byte range; only the headers are read."""
    fs, path = storage.filesystem(uri)
    with fs.open(path, "rb", block_size=1 << 20) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every header it has seen
            if not member.isfile():
                continue
            reason = _left_out(member.name, member.size)
            yield _row(uri, member.offset_data, member.size, member.name, etag, left_out=reason)


def _left_out(name: str, size: int) -> str | None:
    if media_of(name) is None:
        return f"no image ({_suffix(name) or 'no suffix'})"
    return None if size else "zero bytes"


def _row(uri: str, offset: int, length: int, member: str | None, etag: str, *, left_out: str | None) -> dict[str, Any]:
    return {
        schema.SAMPLE_ID: sample_id(uri, member, etag),
        schema.URI: uri,
        schema.OFFSET: offset,
        schema.LENGTH: length,
        "member": member,
        "etag": etag,
        "media": media_of(member or uri) or "",
        LEFT_OUT.name: left_out,
    }
