"""Finds the samples of a folder, prefix, glob or tar shards: listed by Ray tasks, streamed as
manifest rows."""

import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from itertools import chain, islice
from typing import Any

import pyarrow as pa
import ray.data
from braceexpand import braceexpand
from fsspec import AbstractFileSystem

from pipelines.corpus.entry import EVERYTHING, MAGIC, Entry, Place, Selection, is_hidden
from pipelines.corpus.listed_rows import LISTED, per_clip, rows_of
from pipelines.corpus.local_files import local_entries, local_places
from pipelines.corpus.object_keys import key_entries, key_places
from pipelines.corpus.own_outputs import output_in
from pipelines.ray_tasks import map_in_tasks, said_to
from pipelines.storage import uris

ROWS_PER_TABLE = 8192
BLOCK_BYTES = 4 << 20  # of a listing: small, so that progress shows
MAX_TASKS = 512
HERE_S = 1.0  # of listing in this process: tasks take several times as long to start


def list_source(uri: str, selection: Selection = EVERYTHING) -> Iterator[pa.Table]:
    """List a source in parallel: by folder, by the first characters of keys in a bucket, and by
    shard. A small local one is listed in this process.

    Args:
        uri: A folder or prefix (walked whole), a glob, or `.tar` shards, brace patterns expanded.
        selection: What of it is a sample.

    Yields:
        Tables of schema `LISTED`, in no order; at most a few thousand rows in memory at a time.

    Raises:
        ValueError: the source is missing or refused, with the remedy; from a task, a `RayTaskError`
            with it as cause.
    """
    uri = uris.absolute(uri)
    patterns = _patterns(uri)
    places = [
        place
        for pattern in patterns
        for place in _places(pattern, one_of_many=len(patterns) > 1, follow=selection.follow_links)
    ]
    num_rows = 0
    if places:
        for table in _listed(places, selection):
            num_rows += table.num_rows
            yield table
    if not num_rows and any(char in uri for char in MAGIC):
        raise ValueError(f"source.uri {uri} matches nothing: check the pattern")


def _patterns(uri: str) -> list[str]:
    """Expand the braces of a URI that is not there as it stands."""
    return list(braceexpand(uri)) if "{" in uri and not uris.exists(uri) else [uri]


def _listed(places: list[Place], selection: Selection) -> Iterator[pa.Table]:
    """List places in this process while that is quick, and the rest in tasks, which take seconds to
    start."""
    deadline = time.monotonic() + HERE_S
    for number, place in enumerate(places):
        table = _in_time(place, selection, deadline)
        if table is None:
            yield from _listed_by_tasks(places[number:], selection)
            return
        yield per_clip(table, per_video=selection.per_video)


def _in_time(place: Place, selection: Selection, deadline: float) -> pa.Table | None:
    """List a local place; None where it takes too long."""
    if not uris.is_local(place.uri):
        return None
    rows = []
    for row in rows_of(_entries(place), selection):
        rows.append(row)
        if time.monotonic() > deadline:
            return None
    return pa.Table.from_pylist(rows, schema=LISTED)


def _listed_by_tasks(places: list[Place], selection: Selection) -> Iterator[pa.Table]:
    dataset = ray.data.from_items(
        [asdict(place) for place in places], override_num_blocks=min(len(places), MAX_TASKS)
    )
    dataset.context.execution_no_progress_timeout_s = -1  # a prefix may take hours to list
    dataset.context.target_max_block_size = BLOCK_BYTES
    list_places = partial(_list_places, selection=selection)
    cut_clips = partial(per_clip, per_video=selection.per_video)
    listed = map_in_tasks(dataset, list_places, batch_size=None, batch_format="pyarrow")
    listed = map_in_tasks(listed, cut_clips, batch_size=None, batch_format="pyarrow")
    said_to(listed, "listing samples", None)
    yield from listed.iter_batches(batch_size=None, batch_format="pyarrow")


def _places(pattern: str, *, one_of_many: bool, follow: bool = False) -> list[Place]:
    """Cut one pattern into places that can be listed at the same time: files, folders, and ranges
    of keys.

    The thousands of shards of a brace pattern are looked at by the tasks.
    """
    if one_of_many and not any(char in pattern for char in MAGIC):
        path = uris.filesystem(pattern)[1].rstrip("/")
        root = len(path) + (not uris.is_local(pattern))
        return [Place(pattern, root=root, follow=follow)]
    if uris.is_local(pattern) and os.path.lexists(pattern):
        return local_places(pattern, follow=follow)
    fs, path = uris.filesystem(pattern)
    if any(char in path for char in MAGIC) and not fs.exists(path):
        if uris.is_local(pattern):
            return local_places(pattern, follow=follow)
        return _glob(fs, pattern, path)
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
        *(Place(uris.beside(pattern, name), root=root) for name in folders),
    ]


def _glob(fs: AbstractFileSystem, pattern: str, path: str) -> list[Place]:
    if uris.is_s3(pattern):
        return key_places(pattern)
    return [Place(uris.beside(pattern, name)) for name in fs.glob(path)]


def _list_places(places: pa.Table, selection: Selection = EVERYTHING) -> Iterator[pa.Table]:
    found = chain.from_iterable(_entries(Place(**place)) for place in places.to_pylist())
    rows = rows_of(found, selection)
    while some := list(islice(rows, ROWS_PER_TABLE)):
        yield pa.Table.from_pylist(some, schema=LISTED)
    yield LISTED.empty_table()


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
    if uris.is_s3(place.uri):
        yield from key_entries(Place(f"{place.uri.rstrip('/')}/", "keys", root=place.root))
        return
    depth = 1 if place.kind == "own" else None
    for folder, folders, files in fs.walk(path, maxdepth=depth, detail=True):
        below = place.root and len(folder) >= place.root
        if below and (reason := _own_output(fs, folder, [*folders, *files])):
            folders.clear()  # which `walk` then does not go into
            yield Entry(uris.beside(place.uri, folder), problem=reason)
            continue
        problem = "in a hidden folder" if place.root and is_hidden(folder[place.root :]) else None
        for info in files.values():
            if info["name"].rstrip("/") != folder.rstrip("/"):  # the folder's own marker object
                yield _remote_entry(place.uri, info)._replace(problem=problem)


def _own_output(fs: AbstractFileSystem, folder: str, names: list[str]) -> str | None:
    def names_in(name: str) -> list[str]:
        found = fs.ls(f"{folder.rstrip('/')}/{name}", detail=False)
        return [path.rstrip("/").rpartition("/")[2] for path in found]

    return output_in(names, names_in)


def _remote_entry(like: str, info: dict[str, Any]) -> Entry:
    etag = str(info.get("ETag") or info.get("etag") or info.get("LastModified") or "").strip('"')
    return Entry(uris.beside(like, info["name"]), int(info["size"] or 0), etag)


def entries(uri: str) -> Iterator[Entry]:
    """List files of any kind in this process, one after another.

    Raises:
        ValueError: the source is missing or refused, with the remedy.
    """
    for pattern in _patterns(uri):
        for place in _places(pattern, one_of_many=False):
            yield from _entries(place)


def look_up(uri: str) -> Entry:
    """Look one file up.

    Raises:
        ValueError: it is not there.
    """
    return next(_entries(Place(uri)))
