"""Orders: which rows of a manifest an item of work stands for."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from pipelines import schema
from pipelines.corpus.manifest import Manifest


class Order(Protocol):
    """Says which sample stands at which position."""

    def rows(self, start: int, stop: int) -> Iterator[pa.Table]:
        """Yield the samples of positions [start, stop), in order, with the columns `row`, `epoch` and `position`."""


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
        begin = 0
        for part, row_group, size in self.manifest.row_groups():
            first, last = max(start, begin), min(stop, begin + size)
            if first < last:
                table = self.manifest.read_row_group(part, row_group)
                yield keyed(table.slice(first - begin, last - first), epoch=0, start=first)
            begin += size


def keyed(table: pa.Table, *, epoch: int, start: int) -> pa.Table:
    """Add the columns `epoch` and `position` to manifest rows that begin at a position."""
    columns = {
        schema.EPOCH: np.full(table.num_rows, epoch),
        schema.POSITION: start + np.arange(table.num_rows),
    }
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values, pa.int64()))
    return table
