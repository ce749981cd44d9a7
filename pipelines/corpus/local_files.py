"""Lists folders of this machine's file system, cut into places that tasks can list at the same
time."""

import glob
import os
import zlib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from itertools import chain, islice
from pathlib import Path

from pipelines.corpus.entry import LINK_TO_FOLDER, Entry, Place, is_hidden
from pipelines.corpus.own_outputs import MOST_NAMES, output_in

WANTED_PLACES = 64  # folders are opened level by level until there are as many
SHARE_FILES = 50_000  # a larger folder is listed by several tasks, each with its share of the names


def local_places(pattern: str, *, follow: bool = False) -> list[Place]:
    """Cut a file, folder or glob into places.

    A pattern that is there literally is taken literally, as `[1].jpg`.

    Args:
        pattern: A path or glob.
        follow: Whether links to folders are followed, except for those that lead in circles.
    """
    if os.path.isdir(pattern):
        return _split(pattern, follow)
    if os.path.exists(pattern) or not glob.has_magic(pattern):
        return [Place(pattern)]
    head, tail = os.path.split(pattern)
    folders = sorted(filter(os.path.isdir, glob.iglob(head, recursive=True)))
    if tail == "**":
        return [place for folder in folders for place in _split(folder, follow)]
    return [Place(folder, "own", match=tail, root=len(folder), follow=follow) for folder in folders]


def _split(root: str, follow: bool) -> list[Place]:
    """Open folders level by level: the files of each opened one are a place, and so is each tree
    not opened."""
    opened: list[Place] = []
    trees = [root]
    while trees and len(trees) < WANTED_PLACES:
        below: list[str] = []
        for folder in trees:
            names = list(_scan(folder))
            if folder != root and own_output(folder, names):
                opened.append(Place(folder, root=len(root), follow=follow))
                continue
            below += [
                entry.path
                for entry in names
                if _is_folder(entry, follow) and not is_hidden(entry.name)
            ]
            shares = max(1, -(-len(names) // SHARE_FILES))
            opened += [
                Place(folder, "own", root=len(root), share=share, shares=shares, follow=follow)
                for share in range(shares)
            ]
        trees = below
    return opened + [Place(folder, root=len(root), follow=follow) for folder in trees]


def own_output(folder: str, entries: list[os.DirEntry[str]]) -> str | None:
    """Tell what this project wrote into a folder, by its first entries; None for any other."""
    names = [entry.name for entry in entries]
    return output_in(names, lambda name: os.listdir(os.path.join(folder, name)))


def _scan(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except PermissionError as error:
        raise ValueError(
            f"source.uri: {folder} cannot be read ({error.strerror}): check its permissions"
        ) from None


def _is_folder(entry: os.DirEntry[str], follow: bool) -> bool:
    """Tell whether an entry is a folder to walk, perhaps by a link."""
    if entry.is_dir(follow_symlinks=False):
        return True
    return follow and entry.is_dir() and not _leads_in_a_circle(entry.path)


def _leads_in_a_circle(link: str) -> bool:
    """Tell whether a link to a folder leads to one of those that it was reached by."""
    target = os.path.realpath(link)
    return any(os.path.realpath(folder) == target for folder in Path(link).parents)


def local_entries(place: Place) -> Iterator[Entry]:
    """List a place.

    Raises:
        ValueError: it is not there or must not be read.
    """
    path = place.uri
    if os.path.isdir(path):
        yield from _folder(path, place)
        return
    if not os.path.exists(path):
        raise ValueError(f"source.uri {path} does not exist: check the path")
    yield _file(path)


def _folder(folder: str, place: Place) -> Iterator[Entry]:
    entries = _scan(folder)
    first = list(islice(entries, MOST_NAMES + 1))
    if len(folder) > place.root and (reason := own_output(folder, first)):
        yield Entry(folder, problem=reason)
        return
    for entry in chain(first, entries):
        if place.match and not fnmatchcase(entry.name, place.match):
            continue
        if _is_folder(entry, place.follow):
            if is_hidden(entry.name):
                if place.share == 0:
                    yield Entry(entry.path, problem="hidden folder")
            elif place.match or place.kind == "tree":
                inner = Place(entry.path, root=place.root, follow=place.follow)
                yield from _folder(entry.path, inner)
        elif zlib.crc32(os.fsencode(entry.name)) % place.shares == place.share:
            yield _file(entry.path)


def _file(path: str) -> Entry:
    shown = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if shown != path:
        return Entry(shown, problem="name is not UTF-8")
    if os.path.isdir(path):
        return Entry(path, problem=LINK_TO_FOLDER)
    if not os.path.isfile(path):
        return Entry(path, problem="no regular file" if os.path.exists(path) else "broken link")
    stat = os.stat(path)
    return Entry(path, stat.st_size, f"{stat.st_size}-{stat.st_mtime_ns}")
