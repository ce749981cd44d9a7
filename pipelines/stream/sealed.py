"""Streams whose functions travel as bytes, opened by the task that calls them and by nobody else.

Ray's coordinators of a stream unpickle it whole, and Ray Train's builds it. Were its functions in
it, each of those processes would import what they work with, torch and numba among it: 2.8 s of a
CPU before the first sample, and 600 MB (213 MiB, not 800).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Self

import numpy as np
import pyarrow as pa
import ray.data
from ray import cloudpickle

from pipelines import ray_internals
from pipelines.ray_tasks import map_in_tasks

BLOCKS_PER_TASK = 32  # a task start costs as much as decoding some tens of images
# blocks come in order: what later tasks have made waits in the object store for earlier ones
TASK_BYTES = 256 << 20
CUT_ITEMS = 1 << 14  # plan items cut together
# so many are planned at once, 3 ms each; more are streamed by an operator that takes a second to
# start
FEW_ITEMS = 64
PLANNER_CPUS = 0.01
DECODE_CPUS = 0.9  # what training leaves of one CPU is enough for both


def seal(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function."""
    return partial(_call, sealed=cloudpickle.dumps(function))


def _call(*arguments: Any, sealed: bytes) -> Any:
    return _opened(sealed)(*arguments)


@lru_cache(maxsize=8)
def _opened(sealed: bytes) -> Callable[..., Any]:
    function: Callable[..., Any] = cloudpickle.loads(sealed)
    return function


def item_rows(block_rows: int, row_bytes: int) -> int:
    """Return the rows of a plan item: whole blocks, as many as one task makes."""
    blocks = max(1, min(BLOCKS_PER_TASK, TASK_BYTES // (block_rows * row_bytes)))
    return blocks * block_rows


@dataclass(frozen=True)
class SealedStream:
    """A stream of blocks without what its tasks work with.

    Attributes:
        work: From plan items and the rows of a block to blocks; sealed.
        row_bytes: Bytes of one row of a block.
    """

    work: Callable[[pa.Table, int], Iterator[Any]]
    row_bytes: int

    @classmethod
    def of(cls, work: Callable[[pa.Table, int], Iterator[Any]], row_bytes: int) -> Self:
        """Seal the work of a stream's tasks."""
        return cls(seal(work), row_bytes)

    def dataset(self, ranges: Sequence[tuple[int, int]], block_rows: int) -> ray.data.Dataset:
        """Build the lazy stream of blocks for ranges of positions, in order.

        Args:
            ranges: Half-open ranges of positions, at least one; each is cut into plan items.
            block_rows: Rows of every block but the last of a range.
        """
        plan = _planned(ranges, item_rows(block_rows, self.row_bytes))
        context = plan.context
        context.execution_options.preserve_order = True
        # the consumer may pause: checkpoints, waiting for nodes
        context.execution_no_progress_timeout_s = -1
        # told the size of a block, Ray cuts its blocks at exactly one yield
        context.target_max_block_size = block_rows * self.row_bytes
        # Ray's wrapper of a storage failure loses it on the way to the driver
        context.raise_original_map_exception = True
        return map_in_tasks(
            plan,
            partial(_blocks, work=self.work, block_rows=block_rows),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=DECODE_CPUS,
        )


def _blocks(
    items: pa.Table, *, work: Callable[[pa.Table, int], Iterator[Any]], block_rows: int
) -> Iterator[Any]:
    return work(items, block_rows)


def _planned(ranges: Sequence[tuple[int, int]], rows: int) -> ray.data.Dataset:
    """Stream one block an item, so one task an item, a little ahead of the decode tasks.

    Few large items would not do: as blocks come in order, the stream would advance one task at a
    time.
    """
    plan = pa.table({"start": [start for start, _ in ranges], "stop": [stop for _, stop in ranges]})
    # Not `from_arrow`: it looks at every block in a task of a whole CPU, for which training may
    # have left no room.
    if sum(-(-(stop - start) // rows) for start, stop in ranges) <= FEW_ITEMS:
        items = pa.Table.from_batches(_cut(plan, rows=rows))
        few: ray.data.Dataset = ray.data.from_blocks(
            [items.slice(index, 1) for index in range(len(items))]
        )
        return few
    cut = map_in_tasks(
        ray.data.from_blocks([plan]),
        partial(_cut_tables, rows=rows),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=PLANNER_CPUS,
        compute=ray.data.TaskPoolStrategy(size=1),
    )
    many: ray.data.Dataset = cut.repartition(target_num_rows_per_block=1, strict=True)
    ray_internals.hold_little(many, PLANNER_CPUS)
    ray_internals.plan_little_ahead(many)
    return many


def _cut_tables(ranges: pa.Table, *, rows: int) -> Iterator[pa.Table]:
    return (pa.Table.from_batches([batch]) for batch in _cut(ranges, rows=rows))


def _cut(ranges: pa.Table, *, rows: int) -> Iterator[pa.RecordBatch]:
    """Cut ranges of positions into plan items, `CUT_ITEMS` together at most."""
    for start, stop in zip(ranges["start"].to_pylist(), ranges["stop"].to_pylist(), strict=True):
        for first in range(start, stop, CUT_ITEMS * rows):
            starts = np.arange(first, min(stop, first + CUT_ITEMS * rows), rows)
            stops = np.minimum(starts + rows, stop)
            yield pa.RecordBatch.from_arrays([pa.array(starts), pa.array(stops)], ["start", "stop"])
