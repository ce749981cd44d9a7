"""What a listing works on, a place, and what it finds there: entries, before anybody knows whether
they are samples."""

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.corpus.file_kinds import MEDIA_OF, Medium

MAGIC = "*?["  # of globs
LINK_TO_FOLDER = "link to a folder"  # a reason why an entry is no sample
_FOLDER = r"(?:^|/)(?P<folder>[^/]+)/[^/]*$"


@dataclass(frozen=True)
class Place:
    """A part of a source that one task lists.

    Attributes:
        uri: A file, a folder, or what keys of a bucket begin with.
        kind: `tree`: the file, or all below the folder; `own`: the folder without those in it;
            `keys`.
        match: Pattern of an own folder's names, which takes matching folders whole; regular
            expression of keys' paths.
        root: Length of the path prefix that the user gave; rules for hidden folders and for this
            project's own ignore that prefix.
        share, shares: Of an own folder's names this task takes one share of so many.
        follow: Whether links to folders are followed.
    """

    uri: str
    kind: Literal["tree", "own", "keys"] = "tree"
    match: str = ""
    root: int = 0
    share: int = 0
    shares: int = 1
    follow: bool = False


@dataclass(frozen=True)
class Selection:
    """What of a source is a sample.

    Attributes:
        per_video: Samples of each video, one a clip; 0 leaves videos out.
        members: Globs of the members of tar shards that are taken, in which `*` crosses folders;
            empty: all.
        any_name: Whether a file whose name does not tell what it holds is told by its first bytes.
        follow_links: Whether links to local folders are followed; else they are left out.
        medium: Of which medium samples are.
        text_columns: Of tables and JSON lines, which columns hold texts; empty: the usual ones.
    """

    per_video: int = 1
    members: tuple[str, ...] = ()
    any_name: bool = False
    follow_links: bool = False
    medium: Medium = "pictures"
    text_columns: tuple[str, ...] = ()

    @property
    def media(self) -> tuple[str, ...]:
        """Return what a file must hold to be a sample."""
        return MEDIA_OF[self.medium]

    def takes(self, member: str) -> bool:
        """Tell whether a member of a shard is one of those wanted."""
        name = member.removeprefix("./")
        return not self.members or any(fnmatchcase(name, glob) for glob in self.members)


EVERYTHING = Selection()


class Entry(NamedTuple):
    """A file or object.

    Attributes:
        uri: Where it lies.
        size: Bytes.
        etag: The object store's, or size and time of a local file.
        problem: Why it is no sample whatever it holds; None: its name decides.
        message: More of it, for a person.
    """

    uri: str
    size: int = 0
    etag: str = ""
    problem: str | None = None
    message: str | None = None


def root_of(source: str) -> str:
    """Return the folder or file in which all of a source lies: what comes before the first pattern
    in its URI."""
    pattern = re.search(r"[*?\[{]", source)
    return source[: pattern.start()].rpartition("/")[0] if pattern else source.rstrip("/")


def lies_in(root: str, table: pa.Table) -> bool:
    """Tell whether all rows of a table have URIs at or below a place; a local path must not lead
    back up."""
    addresses = table["uri"]
    inside = pc.or_(pc.starts_with(addresses, f"{root}/"), pc.equal(addresses, root))
    if "://" not in root:
        inside = pc.and_not(inside, pc.match_substring_regex(addresses, r"/\.\.(/|$)"))
    return bool(pc.all(inside, min_count=0).as_py())


def folders_of(table: pa.Table) -> pa.ChunkedArray:
    """Return the name of the folder that each row's sample lies in, in its shard if it is a member
    of one; null where there is none."""
    paths = pc.coalesce(table["member"].cast(pa.string()), table["uri"])
    found = pc.extract_regex(pa.chunked_array(paths).combine_chunks(), _FOLDER)
    return pa.chunked_array([pc.struct_field(found, "folder")])


def is_hidden(path: str) -> bool:
    """Tell whether a relative path or a part of it begins with a dot."""
    return any(part.startswith(".") and part not in (".", "..") for part in path.split("/"))
