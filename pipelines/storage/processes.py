"""Tells of a process of this machine whether it lives, suspended, or has ended."""

import hashlib
import os
import platform
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

State = Literal["alive", "stopped", "ended", "unknown"]


def machine() -> str:
    """Name this machine since its last start, and the container whose process ids hold here."""
    names = [platform.node()]
    with suppress(OSError):
        names.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        names.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def started(pid: int) -> int:
    """Return when a process started, in the kernel's ticks; 0 where that cannot be told."""
    fields = _fields(pid)
    return int(fields[19]) if fields else 0


def age_s() -> float:
    """Return the seconds since this process started; 0 where that cannot be told."""
    ticks = started(os.getpid())
    if not ticks:
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def state(where: str, pid: int, start: int) -> State:
    """Tell what became of a process; "unknown" where it is another machine's.

    Args:
        where: Its machine's name.
        pid: Its number.
        start: When it started: numbers are used again.
    """
    if where != machine() or not start:
        return "unknown"
    fields = _fields(pid)
    if not fields or int(fields[19]) != start or fields[0] in "ZX":
        return "ended"
    return "stopped" if fields[0] in "Tt" else "alive"


def _fields(pid: int) -> list[str]:
    """Return what the kernel says of a process from its state on; nothing where there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return text.rpartition(")")[2].split()
