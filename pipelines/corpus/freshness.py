"""Notices cheaply that a source changed since it was listed: by a sample of its files, and where
files are new.

Never a listing anew: at most some hundred files and folders are looked at, or some tens of requests
made, however large the source is. So what is told is true, and something may be missed.
"""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import chain, islice

import numpy as np
import pyarrow as pa
from braceexpand import braceexpand
from fsspec.utils import glob_translate

from pipelines import schema
from pipelines.corpus.entry import MAGIC, is_hidden, root_of
from pipelines.corpus.file_kinds import COMPRESSED, TAR, kind_of
from pipelines.corpus.local_files import own_output
from pipelines.corpus.manifest import Manifest
from pipelines.corpus.object_keys import folders_in, page_behind
from pipelines.corpus.own_outputs import is_sign
from pipelines.storage import uris

SAMPLED_GROUPS = 12  # of the manifest: a smaller one is known whole
SAMPLED_FILES = 256  # looked up in a folder, and their folders with them
SAMPLED_KEYS = 12  # looked up in a bucket, a request each, and as many pages of keys behind them
SCANNED_FILES = 20_000  # of folders that changed
MOST_LEFT_OUT = 100_000  # more of them are not read
MOST_PATTERNS = 64
SLACK = timedelta(minutes=1)  # what clocks may differ by


@dataclass
class _Known:
    """What the manifest says of its source, or of a part of it.

    Attributes:
        etags: Of files, by URI.
        left_out: URIs of files that are no samples.
        whole: Whether these are all.
        listed: When the listing began.
        any_name: Whether names that say nothing may be samples.
        kinds: What a file may hold by its name, where it is a sample.
        patterns: One of them matches whatever belongs to the source.
    """

    etags: dict[str, str]
    left_out: set[str]
    whole: bool
    listed: datetime
    any_name: bool
    kinds: tuple[str, ...]
    patterns: list[re.Pattern[str]]

    def is_new(self, uri: str, size: int, written: datetime) -> bool:
        """Tell whether a file there now looks like a sample and was not listed."""
        if uri in self.etags or uri in self.left_out or not size or not _is_text(uri):
            return False
        if not self.whole and written < self.listed + SLACK:
            return False
        what = kind_of(uri.rpartition("/")[2]).what
        wanted = what in self.kinds or (self.any_name and what != COMPRESSED)
        return wanted and any(pattern.match(uri) for pattern in self.patterns)


@dataclass
class _Found:
    """Files of a source that are not as they were listed, and folders too large to tell."""

    new: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)
    written_to: set[str] = field(default_factory=set)
    in_part: bool = False  # whether more may be so than was looked at

    def __str__(self) -> str:
        names = {"new": self.new, "gone": self.gone, "changed": self.changed}
        counts = [f"{len(found)} {name}" for name, found in names.items() if found]
        if self.written_to and not counts:
            return f"{sorted(self.written_to)[0]} was written to"
        return ("at least " if counts and self.in_part else "") + ", ".join(counts)


def changes_since(manifest: Manifest) -> str:
    """Say what changed in a source since its manifest was made, among what was looked at; empty
    where nothing did."""
    known = _known(manifest)
    every = list(known.etags)
    drawn = np.random.default_rng(0).permutation(len(every)).tolist()
    local = uris.is_local(manifest.source)
    if not local and not uris.is_s3(manifest.source):
        return ""
    most, look = (SAMPLED_FILES, _in_folders) if local else (SAMPLED_KEYS, _in_bucket)
    found = look(manifest, known, [every[index] for index in drawn[:most]])
    found.in_part = not known.whole or len(every) > most
    return str(found)


def _known(manifest: Manifest) -> _Known:
    groups = [group for group in manifest.row_groups() if group[2]]
    chosen = np.linspace(0, len(groups) - 1, min(SAMPLED_GROUPS, len(groups))).astype(int)
    columns = [schema.URI, "etag"]
    tables = [
        manifest.read_row_group(groups[index][0], groups[index][1], columns)
        for index in sorted(set(chosen.tolist()))
    ]
    table = pa.concat_tables(tables)
    etags = dict(zip(table[schema.URI].to_pylist(), table["etag"].to_pylist(), strict=True))
    passed_over, all_of_them = _passed_over(manifest)
    return _Known(
        etags,
        left_out=passed_over,
        whole=all_of_them and len(tables) == len(groups),
        listed=datetime.fromisoformat(manifest.listed),
        any_name=manifest.selection.any_name,
        kinds=(*manifest.selection.media, TAR),
        patterns=_patterns(manifest.source),
    )


def _passed_over(manifest: Manifest) -> tuple[set[str], bool]:
    """Return files that were listed and are no samples of this version, or that curation took out,
    and whether these are all."""
    if sum(manifest.left_out.values()) > MOST_LEFT_OUT:
        return set(), False
    found = set[str]()
    for some in chain(manifest.read_left_out(), manifest.read_taken_out()):
        found.update(some[schema.URI].to_pylist())
        if len(found) > 2 * MOST_LEFT_OUT:
            return found, False
    return found, True


def _is_text(path: str) -> bool:
    """Tell names in UTF-8 from others, which are left out of a listing."""
    return path == path.encode("utf-8", "replace").decode()


def _patterns(source: str) -> list[re.Pattern[str]]:
    expanded = list(braceexpand(source)) if "{" in source and not uris.exists(source) else [source]
    if len(expanded) > MOST_PATTERNS:  # thousands of shards by number: nobody adds to those
        return []
    return [re.compile(_regex(pattern.rstrip("/"))) for pattern in expanded]


def _regex(pattern: str) -> str:
    below = r"(?:/.*)?\Z"
    if not any(char in pattern for char in MAGIC):
        return re.escape(pattern) + below
    scheme, mark, path = pattern.rpartition("://")
    translated: str = glob_translate(path)
    return re.escape(scheme + mark) + translated.removesuffix(r"\Z") + below


def _in_folders(manifest: Manifest, known: _Known, sampled: list[str]) -> _Found:
    """Look sampled files up, and search the folders that were written to since."""
    found = _Found()
    root = root_of(manifest.source)
    folders = {root} if os.path.isdir(root) else set[str]()
    for path in sampled:
        try:
            stat = os.stat(path)
        except OSError:
            found.gone.add(path)
        else:
            if f"{stat.st_size}-{stat.st_mtime_ns}" != known.etags[path]:
                found.changed.add(path)
        while (path := os.path.dirname(path)) not in folders and path.startswith(f"{root}/"):
            folders.add(path)
    written = [folder for folder in sorted(folders) if _written_since(folder, known.listed)]
    _search(written, root, known, found)
    return found


def _written_since(path: str, listed: datetime) -> bool:
    """Tell whether names were added to a folder, or taken from it, or it came from elsewhere."""
    try:
        stat = os.stat(path)
    except OSError:
        return False
    return _time(max(stat.st_mtime, stat.st_ctime)) > listed - SLACK


def _search(folders: list[str], root: str, known: _Known, found: _Found) -> None:
    """Look for new files in folders, and in those below them that were written to as well."""
    left = folders[::-1]
    seen = set(left)
    looked_at = 0
    while left:
        folder = left.pop()
        entries = _entries(folder, SCANNED_FILES - looked_at, judged=folder != root)
        looked_at += len(entries)
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if entry.path not in seen and _written_since(entry.path, known.listed):
                    seen.add(entry.path)
                    left.append(entry.path)
            elif entry.is_file():
                stat = entry.stat()
                if known.is_new(entry.path, stat.st_size, _time(stat.st_ctime)):
                    found.new.add(entry.path)
        if looked_at >= SCANNED_FILES:
            found.written_to.add(folder)
            return


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _entries(folder: str, most: int, *, judged: bool) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as scanned:
            entries = list(islice(scanned, most))
    except OSError:
        return []
    if judged and own_output(folder, entries):
        return []
    return [entry for entry in entries if not is_hidden(entry.name)]


def _in_bucket(manifest: Manifest, known: _Known, sampled: list[str]) -> _Found:
    """Look sampled keys up, and look for new ones behind them, behind the last, and in folders not
    known."""
    found = _Found()
    root = root_of(manifest.source)
    known_folders = {uri[len(root) + 1 :].partition("/")[0] for uri in known.etags}
    unknown = [name for name in folders_in(root) if name not in known_folders and not is_sign(name)]
    behind = [(root, uri) for uri in {*sampled, max(known.etags), ""}]
    behind += [(f"{root}/{name}", "") for name in unknown[:SAMPLED_KEYS]]
    with ThreadPoolExecutor(len(behind) + len(sampled)) as threads:
        pages = threads.map(lambda place: page_behind(*place), behind)
        etags = dict(zip(sampled, threads.map(_etag, sampled), strict=True))
        for uri, size, written in chain.from_iterable(pages):
            below = uri[len(root) :].split("/")
            ours = any(is_hidden(name) or is_sign(name) for name in below)
            if not ours and known.is_new(uri, size, written):
                found.new.add(uri)
    found.gone = {uri for uri, etag in etags.items() if etag is None}
    found.changed = {uri for uri, etag in etags.items() if etag not in (None, known.etags[uri])}
    return found


def _etag(uri: str) -> str | None:
    fs, path = uris.filesystem(uri)
    try:
        return str(fs.info(path)["ETag"]).strip('"')
    except FileNotFoundError:
        return None
