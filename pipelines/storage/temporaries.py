"""Local files on their way to their names: how they are called, and what becomes of those whose
writer died.

A file is written under a hidden name and renamed when it is whole. Whoever writes it holds a lock
on it, which the kernel drops with the process.
"""

import fcntl
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

_OURS = re.compile(r"^\..+\.[0-9a-f]{8}\.tmp$")
_LEFT_BEHIND = re.compile(r"\.[0-9a-f]{8}\.tmp$")  # earlier versions did not hide them


def is_left_behind(name: str) -> bool:
    """Tell whether a name is that of a file that is not whole, or never will be."""
    return bool(_LEFT_BEHIND.search(name))


@contextmanager
def writing(path: str) -> Iterator[IO[bytes]]:
    """Open the file that is to become another one; gone at the end unless it was renamed.

    A process that is killed before leaves it behind: hidden, so that nobody who reads the folder,
    with this project or another, takes it for a whole one.
    """
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(temporary, "wb") as file:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield file
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def sweep(folder: str, before: float, *, deep: bool) -> int:
    """Delete the files in a local folder that dead writers left behind.

    Only what carries such a name, belongs to this user, was last written before a moment, and is
    locked by no process. Where locks cannot be asked for, nothing is deleted.

    Args:
        folder: The folder; none there: nothing happens.
        before: Modification time, by the file system's own clock.
        deep: Whether the folders in it are swept too.

    Returns:
        How many there were.
    """
    found = 0
    for root, folders, names in os.walk(folder):
        if not deep:
            folders.clear()
        for name in names:
            if _OURS.match(name):
                found += _delete(os.path.join(root, name), before)
    return found


def _delete(path: str, before: float) -> bool:
    """Delete one file if nobody writes it; True where it was."""
    with suppress(OSError), open(path, "r+b") as file:
        status = os.fstat(file.fileno())
        if status.st_mtime < before and status.st_uid == os.geteuid():
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path)
            return True
    return False
