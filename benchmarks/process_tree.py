"""Watches a process and all that descend from it: CPU seconds and memory, by what each of them
is."""

import os
import threading
import time
from collections import defaultdict
from types import TracebackType

import numpy as np
import psutil

EVERY_S = 0.5
MIB = 1 << 20


class ProcessTree:
    """Samples a tree of processes in the background, as a context.

    What a process has used is kept when it ends, so that nothing is lost but what it did since the
    last look. A process counts as what its title says at each look: Ray's workers are named after
    the task that they run.

    Args:
        pid: The root, which is called `driver`.
        private: Also look at what processes share with no other, at every fourth look: it takes
            tens of milliseconds each, which a measurement of speed has no use for.
    """

    def __init__(self, pid: int, *, private: bool = False) -> None:
        self._private = private
        self._root = psutil.Process(pid)
        self._used: dict[int, float] = {}  # CPU seconds by process
        self._total: dict[str, float] = defaultdict(float)
        self._looks: list[tuple[float, dict[str, float]]] = []
        self._peaks: dict[str, dict[str, float]] = defaultdict(lambda: {"rss_mib": 0.0})
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "ProcessTree":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()

    def cpu_s(self, start: float, stop: float) -> dict[str, float]:
        """CPU seconds between two moments of `time.time()`, by kind, what took most first."""
        looks = list(self._looks)
        times = [at for at, _ in looks]
        kinds = looks[-1][1]
        spent = {}
        for kind in kinds:
            series = [total.get(kind, 0.0) for _, total in looks]
            spent[kind] = float(np.diff(np.interp([start, stop], times, series))[0])
        return dict(sorted(spent.items(), key=lambda item: -item[1]))

    def peaks(self) -> dict[str, dict[str, float]]:
        """Peak memory of the largest process of each kind, MiB: resident, and of that its own."""
        return {
            kind: dict(peak)
            for kind, peak in sorted(self._peaks.items(), key=lambda item: -item[1]["rss_mib"])
        }

    def _watch(self) -> None:
        while not self._done.wait(EVERY_S):
            try:
                processes = [self._root, *self._root.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            for process in processes:
                try:
                    self._look(process)
                except (
                    psutil.NoSuchProcess,
                    psutil.ZombieProcess,
                ):
                    # it has ended since it was listed
                    continue
            self._looks.append((time.time(), dict(self._total)))

    def _look(self, process: psutil.Process) -> None:
        with process.oneshot():
            kind = "driver" if process.pid == self._root.pid else kind_of(process.cmdline())
            times, rss = process.cpu_times(), process.memory_info().rss
        used = times.user + times.system
        self._total[kind] += used - self._used.get(process.pid, 0.0)
        self._used[process.pid] = used
        peak = self._peaks[kind]
        peak["rss_mib"] = max(peak["rss_mib"], rss / MIB)
        if self._private and len(self._looks) % 4 == 0:
            peak["uss_mib"] = max(peak.get("uss_mib", 0.0), process.memory_full_info().uss / MIB)


def kind_of(command: list[str]) -> str:
    """What a process is, by its command line."""
    if not command:
        return "ended"
    title = " ".join(command)
    if title.startswith("ray::"):
        return title.removeprefix("ray::").split("(")[0].split(".")[0].split()[0]
    if "pipelines.media.decoder_process" in command:
        return "decoder process"
    name = os.path.basename(command[0])
    if name in ("raylet", "gcs_server"):
        return name
    return "Ray's agents" if "/ray/" in title else "worker process"
