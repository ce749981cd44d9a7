"""Addresses the members of a tar shard as byte ranges: headers are read, nothing is unpacked, no name is opened."""

import tarfile
from collections.abc import Iterator
from typing import IO, NamedTuple

from pipelines.storage import uris

READ_AHEAD = 4 << 20  # bytes a request: shards hold hundreds of members in as many


class Member(NamedTuple):
    """A file inside a shard.

    Attributes:
        name: As in the archive; None: the row speaks of the shard.
        offset: Of its first byte in the shard.
        length: Bytes.
        problem: Why it is no sample whatever it holds; None: its name decides.
        message: More of it.
    """

    name: str | None
    offset: int
    length: int
    problem: str | None = None
    message: str = ""


def read_members(uri: str, size: int) -> Iterator[Member]:
    """List the members of a shard, folders passed over; a damaged one gives those before the damage, then its problem.

    Args:
        uri: The shard.
        size: Its bytes.

    Raises:
        OSError: the storage failed.
    """
    fs, path = uris.filesystem(uri)
    with fs.open(path, "rb", block_size=READ_AHEAD) as file:
        end = 0
        try:
            with tarfile.open(fileobj=file, mode="r:", errors="backslashreplace") as tar:
                for member in tar:
                    tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every header it has seen
                    end = member.offset_data + member.size
                    if not member.isdir():
                        yield Member(
                            member.name, member.offset_data, member.size, _problem(member, size)
                        )
                _check_end(tar.offset, file)
        except (
            tarfile.TarError,
            ValueError,
            OverflowError,
        ) as error:  # the last two from numbers in headers
            yield Member(None, min(end, size), max(size - end, 0), "damaged tar", str(error))


def _problem(member: tarfile.TarInfo, size: int) -> str | None:
    if member.islnk() or member.issym():
        return "link in a tar"
    if not member.isfile():
        return "no regular file"
    if member.issparse():
        return "sparse file in a tar"
    return "cut off with its tar" if member.offset_data + member.size > size else None


def _check_end(offset: int, file: IO[bytes]) -> None:
    """Tell the end of an archive from a header that is none: tarfile stops in silence at both."""
    file.seek(offset)
    if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError(f"no header at byte {offset}, where one should be")
