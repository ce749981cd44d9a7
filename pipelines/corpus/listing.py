"""Finds the samples of a folder, prefix, glob or tar shards: listed by Ray tasks, streamed as manifest rows."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from braceexpand import braceexpand
from fsspec import AbstractFileSystem

from pipelines import schema
from pipelines.corpus.entry import Entry, Place, is_hidden
from pipelines.corpus.local_files import local_entries, local_places
from pipelines.corpus.object_keys import key_entries, key_places
from pipelines.corpus.tar_members import read_members
from pipelines.storage import uris

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
    *(
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".jfi",
        ".apng",
        ".dib",
        ".j2k",
        ".j2c",
        ".jpx",
        ".jpf",
        ".mpo",
        ".qoi",
    ),
    *(".icns", ".pcx", ".psd", ".sgi", ".dds", ".fli", ".flc"),
)
VIDEO_SUFFIXES = (
    *(
        ".mp4",
        ".m4v",
        ".mov",
        ".mkv",
        ".webm",
        ".avi",
        ".ts",
        ".m2ts",
        ".mts",
        ".mpg",
        ".mpeg",
        ".flv",
        ".3gp",
        ".3g2",
    ),
    *(".ogv", ".wmv", ".asf"),
)
COMPRESSED_TAR = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
ROWS_PER_TABLE = 8192
LEFT_OUT = pa.field("left_out", pa.string())  # why a file is no sample; null for samples
MESSAGE = pa.field("message", pa.string())  # more of it, for a person
LISTED = schema.MANIFEST.append(LEFT_OUT).append(MESSAGE)
BLOCK_BYTES = 4 << 20  # of a listing: small, so that progress shows
MAX_TASKS = 512
MAGIC = "*?["
_IDENTITY = (schema.URI, "member", "etag")


def media_of(name: str) -> str | None:
    """Tell what a file holds by its suffix: `image` or `video`, or None where it is no sample."""
    suffix = _suffix(name)
    return (
        "image" if suffix in IMAGE_SUFFIXES else schema.VIDEO if suffix in VIDEO_SUFFIXES else None
    )


def _suffix(name: str) -> str:
    return os.path.splitext(name.lower())[1]


def sample_id(uri: str, member: str | None, etag: str, clip: int = 0) -> int:
    """Hash what identifies a sample's content to a signed 64-bit id."""
    key = "\0".join([uri, member or "", str(clip), etag]).encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big", signed=True)


def list_source(uri: str, *, per_video: int = 1) -> Iterator[pa.Table]:
    """List a source in parallel: by folder, by the first characters of keys in a bucket, and by shard.

    Args:
        uri: A folder or prefix (walked whole), a glob, or `.tar` shards, brace patterns expanded.
        per_video: Rows of a video, one a clip; 0 leaves videos out.

    Yields:
        Tables of schema `LISTED`, in no order; at most a few thousand rows in memory at a time.

    Raises:
        ValueError: the source is missing or refused, with the remedy; from a task, a `RayTaskError` with it as cause.
    """
    uri = uris.absolute(uri)
    patterns = list(braceexpand(uri)) if "{" in uri and not uris.exists(uri) else [uri]
    places = [
        place for pattern in patterns for place in _places(pattern, one_of_many=len(patterns) > 1)
    ]
    num_rows = 0
    if places:
        for table in _listed(places, per_video):
            num_rows += table.num_rows
            yield table
    if not num_rows and any(char in uri for char in MAGIC):
        raise ValueError(f"source.uri {uri} matches nothing: check the pattern")


def _listed(places: list[Place], per_video: int) -> Iterator[pa.Table]:
    dataset = ray.data.from_items(
        [asdict(place) for place in places], override_num_blocks=min(len(places), MAX_TASKS)
    )
    dataset.context.execution_no_progress_timeout_s = -1  # a prefix may take hours to list
    dataset.context.target_max_block_size = BLOCK_BYTES
    listed = dataset.map_batches(_list_places, batch_size=None, batch_format="pyarrow")
    listed = listed.map_batches(
        partial(_per_clip, per_video=per_video), batch_size=None, batch_format="pyarrow"
    )
    yield from listed.iter_batches(batch_size=None, batch_format="pyarrow")


def _places(pattern: str, *, one_of_many: bool) -> list[Place]:
    """Cut one pattern into places that can be listed at the same time: files, folders, and ranges of keys.

    The thousands of shards of a brace pattern are looked at by the tasks.
    """
    if one_of_many and not any(char in pattern for char in MAGIC):
        return [Place(pattern)]
    if uris.is_local(pattern) and os.path.lexists(pattern):
        return local_places(pattern)
    fs, path = uris.filesystem(pattern)
    if any(char in path for char in MAGIC) and not fs.exists(path):
        return local_places(pattern) if uris.is_local(pattern) else _glob(fs, pattern, path)
    if problem := uris.reachable(pattern):
        raise ValueError(f"source.uri {problem}")
    if not fs.isdir(path):
        return [Place(pattern)]
    if uris.is_s3(pattern):
        return key_places(pattern)
    folders = [entry["name"] for entry in fs.ls(path, detail=True) if entry["type"] == "directory"]
    root = len(path.rstrip("/")) + 1
    return [
        Place(pattern, "own", root=root),
        *(Place(_uri(pattern, name), root=root) for name in folders),
    ]


def _glob(fs: AbstractFileSystem, pattern: str, path: str) -> list[Place]:
    if uris.is_s3(pattern):
        return key_places(pattern)
    return [Place(_uri(pattern, name)) for name in fs.glob(path)]


def _uri(like: str, path: str) -> str:
    """Give a filesystem's path the scheme of the URI it came from."""
    return f"{like.split('://')[0]}://{path.lstrip('/')}"


def _list_places(places: pa.Table) -> Iterator[pa.Table]:
    rows: list[dict[str, Any]] = []
    for place in places.to_pylist():
        for entry in _entries(Place(**place)):
            for row in _rows(entry):
                rows.append(row)
                if len(rows) >= ROWS_PER_TABLE:
                    yield pa.Table.from_pylist(rows, schema=LISTED)
                    rows = []
    yield pa.Table.from_pylist(rows, schema=LISTED)


def _entries(place: Place) -> Iterator[Entry]:
    if uris.is_local(place.uri):
        yield from local_entries(place)
    elif place.kind == "keys":
        yield from key_entries(place)
    else:
        yield from _remote_entries(place)


def _remote_entries(place: Place) -> Iterator[Entry]:
    """List a file or folder of any filesystem that fsspec knows."""
    fs, path = uris.filesystem(place.uri)
    try:
        info = fs.info(path)
    except FileNotFoundError:
        raise ValueError(f"source.uri {place.uri} does not exist: check the path") from None
    if info["type"] == "file":
        yield _remote_entry(place.uri, info)
        return
    for folder, _, files in fs.walk(path, maxdepth=1 if place.kind == "own" else None, detail=True):
        problem = "in a hidden folder" if place.root and is_hidden(folder[place.root :]) else None
        for info in files.values():
            if info["name"].rstrip("/") != folder.rstrip("/"):  # the folder's own marker object
                yield _remote_entry(place.uri, info)._replace(problem=problem)


def _remote_entry(like: str, info: dict[str, Any]) -> Entry:
    etag = str(info.get("ETag") or info.get("etag") or info.get("LastModified") or "").strip('"')
    return Entry(_uri(like, info["name"]), int(info["size"] or 0), etag)


def entries(uri: str) -> Iterator[Entry]:
    """List files of any kind in this process, one after another.

    Raises:
        ValueError: the source is missing or refused, with the remedy.
    """
    for place in _places(uri, one_of_many=False):
        yield from _entries(place)


def look_up(uri: str) -> Entry:
    """Look one file up.

    Raises:
        ValueError: it is not there.
    """
    return next(_entries(Place(uri)))


def _rows(entry: Entry) -> Iterable[dict[str, Any]]:
    name = entry.uri.rpartition("/")[2].lower()
    if entry.problem or is_hidden(name):
        return [_row(entry, 0, entry.size, None, left_out=entry.problem or "hidden file")]
    if name.endswith(".tar"):
        return _tar_rows(entry)
    if name.endswith(COMPRESSED_TAR):
        raise ValueError(
            f"source.uri: {entry.uri} is compressed, so its members cannot be read by range: unpack it to .tar"
        )
    return [_row(entry, 0, entry.size, None, left_out=_left_out(name, entry.size))]


def _tar_rows(shard: Entry) -> Iterator[dict[str, Any]]:
    if not shard.size:
        yield _row(shard, 0, 0, None, left_out="zero bytes")
        return
    for name, offset, length, problem, message in read_members(shard.uri, shard.size):
        hidden = "hidden file" if name and is_hidden(name) else None
        reason = problem or hidden or _left_out(name or "", length)
        yield _row(
            shard,
            offset,
            length,
            name,
            left_out=reason,
            message=message or (name if reason else None),
        )


def _per_clip(table: pa.Table, *, per_video: int) -> pa.Table:
    """Give each video a row for each of its clips, or the reason why it is left out."""
    is_video = np.array(table[schema.MEDIA]) == schema.VIDEO
    is_video &= table[LEFT_OUT.name].is_null().to_numpy()
    if not is_video.any():
        return table
    if not per_video:
        reason = np.where(
            is_video, "a video, and clip.per_video=0", table[LEFT_OUT.name].to_pylist()
        )
        return _replaced(table, LEFT_OUT.name, reason.tolist())
    repeats = np.where(is_video, per_video, 1)
    rows = table.take(np.repeat(np.arange(table.num_rows), repeats))
    clip = np.concatenate([np.arange(count) for count in repeats])
    of_video = np.repeat(is_video, repeats)
    keys = zip(
        of_video,
        clip,
        *(rows[name].to_pylist() for name in (schema.SAMPLE_ID, *_IDENTITY)),
        strict=True,
    )
    ids = [
        sample_id(uri, member, etag, int(i)) if video else key
        for video, i, key, uri, member, etag in keys
    ]
    rows = _replaced(
        rows,
        schema.CLIP,
        [int(i) if video else None for video, i in zip(of_video, clip, strict=True)],
    )
    return _replaced(rows, schema.SAMPLE_ID, ids)


def _replaced(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    index = table.schema.get_field_index(name)
    return table.set_column(
        index, table.schema.field(index), pa.array(values, table.schema.field(index).type)
    )


def _left_out(name: str, size: int) -> str | None:
    if media_of(name) is None:
        return f"no image ({_suffix(name) or 'no suffix'})"
    return None if size else "zero bytes"


def _row(
    entry: Entry,
    offset: int,
    length: int,
    member: str | None,
    *,
    left_out: str | None,
    message: str | None = None,
) -> dict[str, Any]:
    return {
        schema.SAMPLE_ID: sample_id(entry.uri, member, entry.etag),
        schema.URI: entry.uri,
        schema.OFFSET: offset,
        schema.LENGTH: length,
        "member": member,
        "etag": entry.etag,
        schema.MEDIA: media_of(member or entry.uri) or "",
        schema.CLIP: None,
        LEFT_OUT.name: left_out,
        MESSAGE.name: message,
    }
