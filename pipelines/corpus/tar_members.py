"""Addresses the members of a tar shard as byte ranges: headers are read, nothing is unpacked, no
name is opened.

What unpacking would do decides what a member is: of several with one name the last counts, and
where archives were joined end to end the members of all of them do (`tar --ignore-zeros`).
"""

import tarfile
from array import array
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipelines import schema
from pipelines.corpus.file_kinds import (
    COMPRESSED,
    HEAD_BYTES,
    kind_of,
    kind_of_bytes,
    sample_in,
)
from pipelines.storage import uris

READ_AHEAD = 4 << 20  # bytes a request: shards hold hundreds of members in as many
LARGE_MEMBER = 1 << 20  # the next header behind one is fetched by itself
COMPRESSED_SHARD = "compressed tar (unpack it to .tar)"
DAMAGED = "damaged tar"
BEHIND = "data behind the end of a tar"
REPLACED = "replaced by a later member of its name"
HELD_ROWS = 8192
SEARCH_BYTES = 1 << 20


class Member(NamedTuple):
    """A file inside a shard.

    Attributes:
        name: As in the archive; None: the row speaks of the shard.
        offset: Of its first byte in the shard.
        length: Bytes.
        what: What it holds, as `file_kinds.Kind.what`.
        problem: Why it is no sample whatever it holds; None: `what` decides.
        message: More of it.
    """

    name: str | None
    offset: int
    length: int
    what: str = ""
    problem: str | None = None
    message: str = ""


_HELD = pa.schema(
    [
        pa.field("name", pa.string()),
        pa.field("offset", pa.int64()),
        pa.field("length", pa.int64()),
        pa.field("what", pa.string()),
        pa.field("problem", pa.string()),
        pa.field("message", pa.string()),
    ]
)


def read_members(uri: str, size: int, *, any_name: bool = False) -> Iterator[Member]:
    """List the members of a shard, folders passed over; a damaged one gives those before the
    damage, then its problem.

    Args:
        uri: The shard.
        size: Its bytes.
        any_name: Tell a member whose name does not say what it holds by its first bytes.

    Raises:
        OSError: the storage failed.
    """
    return _without_replaced(_all_members(uri, size, any_name))


def _without_replaced(members: Iterable[Member]) -> Iterator[Member]:
    """Give members that a later one of the same name replaces as a problem.

    Held back until the last is known: some 70 bytes a member.
    """
    rest = iter(members)
    tables = list[pa.Table]()
    keys = array("q")
    while held := list(islice(rest, HELD_ROWS)):
        keys.extend(hash((member.name or "").removeprefix("./")) for member in held)
        columns = zip(*held, strict=True)
        tables.append(pa.table([list(column) for column in columns], schema=_HELD))
    every = np.array(keys)
    counts = np.unique(every, return_index=True, return_counts=True)
    again = set(counts[0][counts[2] > 1].tolist())
    last = {key: index for index, key in enumerate(keys) if key in again}
    index = 0
    for table in tables:
        for row in table.to_pylist():
            member = Member(**row)
            if member.name is not None and last.get(keys[index], index) != index:
                member = member._replace(problem=REPLACED)
            yield member
            index += 1


def _all_members(uri: str, size: int, any_name: bool) -> Iterator[Member]:
    """Yield the members of an archive and of those joined to its end."""
    fs, path = uris.filesystem(uri)
    with fs.open(path, "rb", block_size=READ_AHEAD) as file:
        begin: int | None = 0
        while begin is not None:
            end = begin
            try:
                file.seek(begin)
                with tarfile.open(fileobj=file, mode="r:", errors="backslashreplace") as tar:
                    for member in tar:
                        tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every header it has seen
                        end = member.offset_data + member.size
                        _read_ahead(file, member.size)
                        if not member.isdir():
                            yield _member(member, size, file, any_name)
                    _check_end(tar.offset, file)
                    end = tar.offset
            except (tarfile.TarError, ValueError, OverflowError) as error:
                # The last two come from numbers in headers.
                yield _damage(file, min(end, size), size, str(error))
                return
            begin = _next_archive(file, end)
            if begin is not None and not _is_header(file, begin):
                left = size - begin
                yield Member(None, begin, left, "", BEHIND, f"{left:,} bytes that are no tar")
                return


def _read_ahead(file: Any, size: int) -> None:
    """Fetch many members with one request where they are small, and only headers where they are
    large."""
    if cache := getattr(file, "cache", None):  # local files have none
        cache.blocksize = READ_AHEAD if size < LARGE_MEMBER else tarfile.RECORDSIZE


def _member(member: tarfile.TarInfo, size: int, file: IO[bytes], any_name: bool) -> Member:
    problem = _problem(member, size)
    what = kind_of(member.name).what
    if any_name and what in ("", schema.AUDIO) and problem is None:
        file.seek(member.offset_data)
        what = sample_in(file.read(min(HEAD_BYTES, member.size)))
    message = _link(member)
    return Member(member.name, member.offset_data, member.size, what, problem, message)


def _problem(member: tarfile.TarInfo, size: int) -> str | None:
    if member.islnk() or member.issym():
        return "link in a tar"
    if not member.isfile():
        return "no regular file"
    if member.issparse():
        return "sparse file in a tar"
    return "cut off with its tar" if member.offset_data + member.size > size else None


def _link(member: tarfile.TarInfo) -> str:
    """Say where a link leads."""
    if not (member.islnk() or member.issym()):
        return ""
    return f"{'hard' if member.islnk() else 'symbolic'} link to {member.linkname}"


def _damage(file: IO[bytes], at: int, size: int, message: str) -> Member:
    """Say what is wrong with a shard from some byte on; whether it is a tar at all is told by its
    first bytes."""
    if not at:
        file.seek(0)
        kind = kind_of_bytes(file.read(HEAD_BYTES))
        if kind.what == COMPRESSED:
            return Member(None, 0, size, "", COMPRESSED_SHARD, "compressed under the name of a tar")
        if kind.what:
            message = f"{kind.what} under the name of a tar"
    return Member(None, at, max(size - at, 0), "", DAMAGED, message)


def _check_end(offset: int, file: IO[bytes]) -> None:
    """Tell the end of an archive from a header that is none: tarfile stops in silence at both."""
    file.seek(offset)
    if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError(f"no header at byte {offset}, where one should be")


def _next_archive(file: IO[bytes], offset: int) -> int | None:
    """Find the first block behind the end of an archive that is not filled with zeros."""
    file.seek(offset)
    while chunk := file.read(SEARCH_BYTES):
        if rest := chunk.lstrip(b"\0"):
            found = offset + len(chunk) - len(rest)
            return found - found % tarfile.BLOCKSIZE
        offset += len(chunk)
    return None


def _is_header(file: IO[bytes], offset: int) -> bool:
    file.seek(offset)
    try:
        tarfile.TarInfo.frombuf(file.read(tarfile.BLOCKSIZE), tarfile.ENCODING, "backslashreplace")
    except tarfile.HeaderError:
        return False
    return True
