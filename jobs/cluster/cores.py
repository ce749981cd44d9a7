"""How many cores this process may use."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def own_cores() -> int:
    """Return the cores that this process may use: of a container's share, not of its host."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    cores = affinity or os.cpu_count() or 1
    return max(1, math.ceil(min([cores, *_limits(CGROUPS, OWN_CGROUP)])))


def _limits(root: Path, own: Path) -> Iterator[float]:
    """Yield the cores of each control group around this process that has a limit, of cgroups v2
    and v1.

    A container sees its own group as the root; a service on a host lies some folders below it.
    """
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        lines = []
    for number, controllers, path in [*lines, ["0", "", "/"], ["1", "cpu", "/"]]:
        if number == "0":
            top, names = root, ["cpu.max"]
        elif "cpu" in controllers.split(","):
            top, names = root / "cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        folder = top / path.lstrip("/")
        while folder.is_relative_to(top):
            try:
                quota, period = " ".join((folder / name).read_text() for name in names).split()
                if int(quota) > 0:
                    yield int(quota) / int(period)
            except (OSError, ValueError):  # no such file, or no limit: "max"
                pass
            folder = folder.parent
