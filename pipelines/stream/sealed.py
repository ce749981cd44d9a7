"""Streams whose functions travel as bytes, opened by the task that calls them and by nobody else.

Ray's coordinators of a stream unpickle it whole, and Ray Train's builds it. Were its functions in
it, each of those processes would import what they work with: numba where images are cut, half a
second of a CPU and 70 MB; torch too where colours are changed, 2.8 s before the first sample and
600 MB.
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

BATCHES_PER_TASK = 32  # a task start costs as much as decoding some tens of images
# Batches of small images are joined: a block costs Ray's processes 25 ms of a CPU, however small.
MOST_JOINED = 8
JOINED_BYTES = 16 << 20
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


def _call(*arguments: Any, sealed: bytes, **named: Any) -> Any:
    return _opened(sealed)(*arguments, **named)


@lru_cache(maxsize=8)
def _opened(sealed: bytes) -> Callable[..., Any]:
    function: Callable[..., Any] = cloudpickle.loads(sealed)
    return function


@dataclass(frozen=True)
class Deal:
    """How positions become blocks, which Ray deals to ranks in turn.

    Attributes:
        rows: Samples of one rank's batch.
        ranks: Whose batches follow one another in the order of positions.
        joined: Batches of one rank in a block.
    """

    rows: int
    ranks: int = 1
    joined: int = 1

    @classmethod
    def of(cls, rows: int, ranks: int, row_bytes: int) -> Self:
        """Join small batches; where there are many ranks, none are."""
        joined = min(MOST_JOINED, JOINED_BYTES // (rows * row_bytes), BATCHES_PER_TASK // ranks)
        return cls(rows, ranks, joined) if joined > 1 else cls(rows)

    @property
    def block_rows(self) -> int:
        """Return the rows of every block but those at the end of a range."""
        return self.joined * self.rows

    def item_rows(self, row_bytes: int) -> int:
        """Return the rows of a plan item: as many blocks as one task makes, a whole number for each
        rank."""
        turn = self.ranks * self.block_rows
        batches = min(BATCHES_PER_TASK, TASK_BYTES // (self.rows * row_bytes))
        return max(1, batches * self.rows // turn) * turn

    def plan(self, start: int, stop: int, row_bytes: int) -> Iterator[tuple[int, int, int]]:
        """Yield `start`, `stop` and rows of stretches of plan items that cover a range.

        What is no block for every rank comes in items of one batch each: Ray puts small blocks of
        one task together.
        """
        turn = self.ranks * self.block_rows
        whole = start + (stop - start) // turn * turn if self.ranks > 1 else stop
        if start < whole:
            yield start, whole, self.item_rows(row_bytes)
        if whole < stop:
            yield whole, stop, self.rows

    def blocks(self, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
        """Cut the rows of plan items, in order of their positions, into blocks."""
        whole = self.ranks * self.block_rows
        for turn in _cut_rows(tables, whole):
            if self.ranks == 1 or turn.num_rows < whole:
                yield turn
                continue
            places = np.arange(turn.num_rows).reshape(-1, self.ranks, self.rows)
            for rank in range(self.ranks):
                yield turn.take(pa.array(places[:, rank].reshape(-1)))


def _cut_rows(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Join and cut tables to exactly `rows`; the last may be shorter."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(piece.num_rows for piece in waiting) >= rows:
            joined = pa.concat_tables(waiting)
            whole = joined.num_rows // rows * rows
            yield from (joined.slice(start, rows) for start in range(0, whole, rows))
            waiting = [joined.slice(whole)] if whole < joined.num_rows else []
    if waiting:
        yield pa.concat_tables(waiting)


@dataclass(frozen=True)
class SealedStream:
    """A stream of blocks without what its tasks work with.

    Attributes:
        work: From plan items, and how they are dealt, to blocks; sealed.
        row_bytes: Bytes of one row of a block.
    """

    work: Callable[..., Iterator[Any]]
    row_bytes: int

    @classmethod
    def of(cls, work: Callable[[pa.Table, Deal], Iterator[Any]], row_bytes: int) -> Self:
        """Seal the work of a stream's tasks."""
        return cls(seal(work), row_bytes)

    def dataset(self, ranges: Sequence[tuple[int, int]], deal: Deal) -> ray.data.Dataset:
        """Build the lazy stream of blocks for ranges of positions, in order.

        Args:
            ranges: Half-open ranges of positions, at least one; each is cut into plan items. With
                several ranks, each holds as many batches of every rank.
            deal: How they become blocks.
        """
        stretches = [
            each for start, stop in ranges for each in deal.plan(start, stop, self.row_bytes)
        ]
        plan = _planned(stretches)
        context = plan.context
        context.execution_options.preserve_order = True
        # the consumer may pause: checkpoints, waiting for nodes
        context.execution_no_progress_timeout_s = -1
        # told the size of a block, Ray cuts its blocks at exactly one yield
        context.target_max_block_size = deal.block_rows * self.row_bytes
        # Ray's wrapper of a storage failure loses it on the way to the driver
        context.raise_original_map_exception = True
        return map_in_tasks(
            plan,
            partial(self.work, deal=deal),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=DECODE_CPUS,
        )


def _planned(stretches: Sequence[tuple[int, int, int]]) -> ray.data.Dataset:
    """Stream one block an item, so one task an item, a little ahead of the decode tasks.

    Few large items would not do: as blocks come in order, the stream would advance one task at a
    time.

    Args:
        stretches: Start, stop and rows of the items of each.
    """
    columns = ("start", "stop", "rows")
    plan = pa.table(dict(zip(columns, map(list, zip(*stretches, strict=True)), strict=True)))
    # Not `from_arrow`: it looks at every block in a task of a whole CPU, for which training may
    # have left no room.
    if sum(-(-(stop - start) // rows) for start, stop, rows in stretches) <= FEW_ITEMS:
        items = pa.Table.from_batches(_cut(plan))
        few: ray.data.Dataset = ray.data.from_blocks(
            [items.slice(index, 1) for index in range(len(items))]
        )
        return few
    cut = map_in_tasks(
        ray.data.from_blocks([plan]),
        _cut_tables,
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=PLANNER_CPUS,
        compute=ray.data.TaskPoolStrategy(size=1),
    )
    many: ray.data.Dataset = cut.repartition(target_num_rows_per_block=1, strict=True)
    ray_internals.hold_little(many, PLANNER_CPUS)
    ray_internals.plan_little_ahead(many)
    return many


def _cut_tables(stretches: pa.Table) -> Iterator[pa.Table]:
    return (pa.Table.from_batches([batch]) for batch in _cut(stretches))


def _cut(stretches: pa.Table) -> Iterator[pa.RecordBatch]:
    """Cut stretches of positions into plan items, `CUT_ITEMS` together at most."""
    for stretch in stretches.to_pylist():
        rows = stretch["rows"]
        stop = stretch["stop"]
        for first in range(stretch["start"], stop, CUT_ITEMS * rows):
            starts = np.arange(first, min(stop, first + CUT_ITEMS * rows), rows)
            stops = np.minimum(starts + rows, stop)
            yield pa.RecordBatch.from_arrays([pa.array(starts), pa.array(stops)], ["start", "stop"])
