"""Lists buckets, cut into ranges of keys that tasks can list at the same time, however flat the
bucket is."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import lru_cache, partial
from typing import Any

from fsspec.asyn import AsyncFileSystem, sync
from fsspec.utils import glob_translate

from pipelines.corpus.entry import Entry, Place, is_hidden
from pipelines.corpus.own_outputs import MOST_NAMES, is_sign, output_in
from pipelines.storage import uris

# stems are cut until there are as many, or none is left with more than a page of keys
WANTED_STEMS = 64
MAX_CUTS = 8
LAST = "\U0010ffff"  # sorts after every character of a key
REQUESTS = 16  # in flight while cutting
ARCHIVES = ("GLACIER", "DEEP_ARCHIVE")  # reading from the others is merely slower or dearer


def key_places(uri: str) -> list[Place]:
    """Cut a folder or glob of a bucket into stems: keys that begin with the same characters.

    One request tells how many keys lie under a stem (up to a page of 1 000) and one the first key
    after some character, so a stem is cut at the characters that really follow, with a request for
    each.
    """
    fs, path = uris.filesystem(uri)
    bucket, _, key = path.partition("/")
    magic = re.search(r"[*?\[]", key)
    match = glob_translate(path).removesuffix(r"\Z") + r"(?:/.*)?\Z" if magic else ""
    stem = key[: magic.start()] if magic else f"{key}/" if key else ""
    scheme = uri.partition("://")[0]
    root = len(f"{bucket}/{stem.rpartition('/')[0]}/") if "/" in stem else len(bucket) + 1
    return [
        Place(f"{scheme}://{bucket}/{part}", "keys", match, root)
        for part in _cut_all(fs, bucket, stem)
    ]


def _cut_all(fs: AsyncFileSystem, bucket: str, stem: str) -> list[str]:
    stems = [stem]
    whole = list[str]()
    with ThreadPoolExecutor(REQUESTS, thread_name_prefix="keys") as threads:
        for _ in range(MAX_CUTS):
            if not stems or len(stems) + len(whole) >= WANTED_STEMS:
                break
            cut = list(threads.map(partial(_cut, fs, bucket), stems))
            whole += [stem for stem, parts in zip(stems, cut, strict=True) if not parts]
            stems = [part for parts in cut for part in parts]
    return whole + stems


def _cut(fs: AsyncFileSystem, bucket: str, stem: str) -> list[str]:
    """Return the stems of the next character under a stem; none where its keys fit a page."""
    page = _page(fs, bucket, stem)
    keys = [entry["Key"] for entry in page.get("Contents", [])]
    if not page.get("IsTruncated"):
        return []
    common = _common(keys[0], keys[-1])
    while (beyond := _first(fs, bucket, stem, common + LAST)) and not beyond.startswith(common):
        common = _common(common, beyond)
    parts: list[str] = []
    key = (
        keys[0]
        if keys[0] != common or not common.endswith("/")
        else _first(fs, bucket, common, common)
    )
    while key is not None and len(key) > len(common):
        parts.append(key[: len(common) + 1])
        key = _first(fs, bucket, common, parts[-1] + LAST)
    if key == common:  # an object whose name begins the names of others: too odd to cut for
        return []
    # SeaweedFS sorts a folder before the names that begin like it, so the steps above may pass it
    # by.
    folder = f"{common}/"
    if not common.endswith("/") and folder not in parts and _first(fs, bucket, folder, ""):
        parts.append(folder)
    return parts


def _common(a: str, b: str) -> str:
    """Return what two keys begin with."""
    same = (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    return a[: next(same, min(len(a), len(b)))]


def _page(fs: AsyncFileSystem, bucket: str, stem: str, **options: Any) -> dict[str, Any]:
    call = partial(fs._call_s3, "list_objects_v2", Bucket=bucket, Prefix=stem, **options)
    # s3fs's own call_s3 would pass by what a subclass does about faults
    answer: dict[str, Any] = sync(fs.loop, call)
    return answer


def _first(fs: AsyncFileSystem, bucket: str, stem: str, after: str) -> str | None:
    """Return the first key under a stem that sorts after a text."""
    options = {"StartAfter": after} if after else {}
    contents = _page(fs, bucket, stem, MaxKeys=1, **options).get("Contents", [])
    return contents[0]["Key"] if contents else None


def folders_in(uri: str) -> list[str]:
    """List the folders directly in a folder of a bucket, the first thousand."""
    fs, bucket, stem = _stem(uri)
    page = _page(fs, bucket, stem, Delimiter="/")
    return [entry["Prefix"][len(stem) : -1] for entry in page.get("CommonPrefixes", [])]


def page_behind(uri: str, after: str) -> list[tuple[str, int, datetime]]:
    """List the first thousand keys of a folder that sort after another: URI, bytes and when each
    was written."""
    fs, bucket, stem = _stem(uri)
    start = f"{uri.partition('://')[0]}://{bucket}/"
    options = {"StartAfter": after.removeprefix(start)} if after else {}
    found = _page(fs, bucket, stem, **options).get("Contents", [])
    return [(f"{start}{info['Key']}", info["Size"], info["LastModified"]) for info in found]


def _stem(uri: str) -> tuple[AsyncFileSystem, str, str]:
    """Return what the keys of a folder begin with, and their bucket."""
    fs, path = uris.filesystem(uri)
    bucket, _, key = path.partition("/")
    return fs, bucket, f"{key}/" if key else ""


def key_entries(place: Place) -> Iterator[Entry]:
    """List a place, a page in memory at a time; a hidden folder is one entry, and so is one of this
    project's own."""
    fs, _ = uris.filesystem(place.uri)
    bucket, _, stem = place.uri.partition("://")[2].partition("/")
    scheme = place.uri.partition("://")[0]
    match = re.compile(place.match).match if place.match else None
    outputs = _OwnOutputs(fs, bucket)
    passed_over = ""
    for info in _objects(fs, bucket, stem):
        path = f"{bucket}/{info['Key']}"
        # a folder's own marker object
        if (match and not match(path)) or (path.endswith("/") and not info["Size"]):
            continue
        above = path[: place.root]
        relative = path[place.root :]
        problem: str | None = "hidden folder"
        folder = _hidden_folder(relative)
        if folder is None:
            folder, problem = outputs.holding(above.removeprefix(f"{bucket}/"), relative)
        if folder is None:
            entry = Entry(f"{scheme}://{path}", info["Size"], info["ETag"].strip('"'))
            yield entry._replace(problem=_archived(info))
        elif folder != passed_over:
            passed_over = folder
            if match or outputs.begins_with(f"{above}{folder}", stem):
                yield Entry(f"{scheme}://{above}{folder}", problem=problem)


class _OwnOutputs:
    """Finds folders of this project among keys; a folder is asked for where the name of a key gives
    cause.

    Args:
        fs: The bucket's.
        bucket: Its name.
    """

    def __init__(self, fs: AsyncFileSystem, bucket: str) -> None:
        self._fs = fs
        self._bucket = bucket
        self._reason = lru_cache(maxsize=1024)(self._look)

    def holding(self, above: str, relative: str) -> tuple[str | None, str | None]:
        """Find the folder of this project that a key below the source lies in, and what it is."""
        folders = relative.split("/")
        for depth in range(1, len(folders)):
            folder = "/".join(folders[:depth])
            if is_sign(folders[depth]) and (reason := self._reason(f"{above}{folder}/")):
                return folder, reason
        return None, None

    def begins_with(self, folder: str, stem: str) -> bool:
        """Tell whether the first key of a folder is among those of a stem: of all that list it, one
        task tells."""
        prefix = f"{folder.removeprefix(f'{self._bucket}/')}/"
        first = _first(self._fs, self._bucket, prefix, "")
        return first is None or first.startswith(stem)

    def _look(self, folder: str) -> str | None:
        return output_in(self._names(folder), lambda name: self._names(f"{folder}{name}/"))

    def _names(self, folder: str) -> list[str]:
        page = _page(self._fs, self._bucket, folder, Delimiter="/", MaxKeys=MOST_NAMES + 1)
        keys = [entry["Key"] for entry in page.get("Contents", [])]
        keys += [entry["Prefix"].rstrip("/") for entry in page.get("CommonPrefixes", [])]
        return [key[len(folder) :] for key in keys if len(key) > len(folder)]


def _hidden_folder(relative: str) -> str | None:
    """Return the first hidden folder on a path, None where there is none."""
    folders = relative.split("/")[:-1]
    return next(
        ("/".join(folders[: i + 1]) for i, name in enumerate(folders) if is_hidden(name)), None
    )


def _archived(info: dict[str, Any]) -> str | None:
    """Say in which archive an object lies from which it would have to be restored first."""
    if info.get("StorageClass") not in ARCHIVES:
        return None
    restored = info.get("RestoreStatus", {})
    if restored.get("RestoreExpiryDate") and not restored.get("IsRestoreInProgress"):
        return None
    return f"archived ({info['StorageClass']})"


def _objects(fs: AsyncFileSystem, bucket: str, stem: str) -> Iterator[dict[str, Any]]:
    options: dict[str, Any] = {}
    while True:
        page = _page(fs, bucket, stem, **options)
        if any(info.get("StorageClass") in ARCHIVES for info in page.get("Contents", [])):
            # Whether it was restored is told only where that is asked for.
            wanted = {"OptionalObjectAttributes": ["RestoreStatus"]}
            page = _page(fs, bucket, stem, **options, **wanted)
        yield from page.get("Contents", [])
        if not page.get("IsTruncated"):
            return
        options = {"ContinuationToken": page["NextContinuationToken"]}
