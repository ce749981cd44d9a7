"""Orders: which rows of a manifest an item of work stands for."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import pyarrow as pa

from pipelines import schema
from pipelines.corpus.manifest import Manifest


class Order(Protocol):
    """Says which sample stands at which position."""

    def rows(self, start: int, stop: int) -> Iterator[pa.Table]:
        """Yield the samples of positions [start, stop), in order, with the columns `row`, `epoch`
        and `position`."""


@dataclass(frozen=True, eq=False)
class Listed:
    """Rows held in memory, each once: small labelled sets."""

    table: pa.Table

    def rows(self, start: int, stop: int) -> Iterator[pa.Table]:
        """Yield the rows [start, stop)."""
        table = self.table.slice(start, stop - start)
        rows = pa.array(np.arange(start, start + table.num_rows))
        yield keyed(table.append_column(schema.ROW, rows), epoch=0, start=start)


@dataclass(frozen=True, eq=False)
class ManifestOrder:
    """Every row of a manifest once, as they lie: for export."""

    manifest: Manifest

    def rows(self, start: int, stop: int) -> Iterator[pa.Table]:
        """Yield the rows [start, stop) of the whole manifest."""
        groups, ends = self._groups
        index = int(np.searchsorted(ends, start, side="right"))
        while start < stop and index < len(ends):
            part, row_group, size = groups[index].tolist()
            end = int(ends[index])
            last = min(stop, end)
            if start < last:
                table = self.manifest.read_row_group(part, row_group)
                rows = table.slice(start - (end - size), last - start)
                yield keyed(rows, epoch=0, start=start)
                start = last
            index += 1

    @cached_property
    def _groups(self) -> tuple[np.ndarray, np.ndarray]:
        """Return part, row group and rows of every row group, (n, 3), and behind which row each
        ends, (n,)."""
        groups = np.array(list(self.manifest.row_groups()), dtype=np.int64).reshape(-1, 3)
        return groups, np.cumsum(groups[:, 2])


def keyed(table: pa.Table, *, epoch: int, start: int) -> pa.Table:
    """Add the columns `epoch` and `position` to manifest rows that begin at a position."""
    columns = {
        schema.EPOCH: np.full(table.num_rows, epoch),
        schema.POSITION: start + np.arange(table.num_rows),
    }
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values, pa.int64()))
    return table
