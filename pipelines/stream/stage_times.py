"""Where a data task's time goes: measured as it works, handed on with every block as columns.

Each row carries its share of its block's seconds, so that sums over any rows are right. The stages
of a task:

    fetch   it stood still for bytes that were not there yet; prefetched ones cost nothing
    decode  bytes to pixels
    crop    pixels to the block's columns; colours too where a task or an actor changes them

`ready_at` is the clock when the block was complete. A training worker that waits for a batch waits
first until its block is ready, and then for transport: building the Arrow block, the object store,
the way to its node, its turn in the order, and collation. Only the part of a wait after `ready_at`
counts as transport; a block that lies ready before anyone asks costs nobody time. Clocks of
different nodes are compared: where they differ, the line between them blurs.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from pipelines import schema
from pipelines.storage.retries import RETRIES

SECONDS = {"fetch": schema.FETCH_S, "decode": schema.DECODE_S, "crop": schema.CROP_S}


class Stopwatch:
    """Adds up the seconds of a block's stages, and the storage requests tried again meanwhile in
    this process."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._retries = RETRIES.total

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Count the block of code as a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[stage] += time.perf_counter() - started

    def columns(self, num_rows: int) -> dict[str, np.ndarray]:
        """Give the columns of a block that is complete, and start again for the next one."""
        columns = {
            column: np.full(num_rows, self._seconds[stage] / num_rows, np.float32)
            for stage, column in SECONDS.items()
        }
        tried = RETRIES.total - self._retries
        self._retries = RETRIES.total
        columns[schema.RETRIES] = np.full(num_rows, tried / num_rows, np.float32)
        columns[schema.READY_AT] = np.full(num_rows, time.time())
        self._seconds.clear()
        return columns


def row_bytes() -> int:
    """Return the bytes a row of the columns takes."""
    return sum(column.nbytes for column in Stopwatch().columns(1).values())
