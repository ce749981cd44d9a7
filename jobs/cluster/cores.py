"""How many cores this process may use."""

import math
import os
from pathlib import Path


def own_cores() -> int:
    """Return the cores that this process may use: of a container's share, not of its host."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores or 1, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or no limit: "max"
        return cores or 1
