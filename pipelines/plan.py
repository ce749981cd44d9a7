"""The order of a run: every epoch a seeded permutation of the manifest's row groups, each permuted inside.

All epochs form one endless sequence of positions. Position p belongs to epoch p // N; optimiser step s consumes
positions [s * G, (s + 1) * G) of global batch G, whatever the number of workers: a step's samples are a function of
(manifest, seed, s).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch

from augment import rng
from pipelines import schema
from pipelines.manifest import Manifest


class Order(Protocol):
    """Says which sample stands at which position."""

    def rows(self, start: int, stop: int) -> Iterator[pa.Table]:
        """Yield the samples of positions [start, stop), in order, with the columns `epoch` and `position`."""


@dataclass(frozen=True, eq=False)
class Listed:
    """Rows held in memory, each once: small labelled sets."""

    table: pa.Table

    def rows(self, start: int, stop: int) -> Iterator[pa.Table]:
        """Yield the rows [start, stop)."""
        yield keyed(self.table.slice(start, stop - start), epoch=0, start=start)


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
    columns = {schema.EPOCH: np.full(table.num_rows, epoch), schema.POSITION: start + np.arange(table.num_rows)}
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values, pa.int64()))
    return table


@dataclass(frozen=True, eq=False)
class Plan:
    """The endless sequence of samples that a run consumes.

    Attributes:
        manifest: The corpus.
        seed: Another seed, another order.
    """

    manifest: Manifest
    seed: int

    def rows(self, start: int, stop: int) -> Iterator[pa.Table]:
        """Yield the samples of positions [start, stop), in order.

        Yields:
            Manifest rows with the columns `epoch` and `position` added, one table per stretch of a row group.
        """
        num_rows = self.manifest.num_rows
        while start < stop:
            epoch, first = divmod(start, num_rows)
            last = min(num_rows, first + stop - start)
            for table in self._epoch_rows(epoch, first, last):
                yield keyed(table, epoch=epoch, start=start)
                start += table.num_rows

    def _epoch_rows(self, epoch: int, first: int, last: int) -> Iterator[pa.Table]:
        groups = self._row_groups
        order = permutation(len(groups), seed=self.seed, epoch=epoch, stream=-1)
        ends = np.cumsum(groups[order, 2])
        index = int(np.searchsorted(ends, first, side="right"))
        while first < last:
            part, row_group, size = (int(value) for value in groups[order[index]])
            begin = int(ends[index]) - size
            end = min(last, int(ends[index]))
            inside = permutation(size, seed=self.seed, epoch=epoch, stream=int(order[index]))
            yield self.manifest.read_row_group(part, row_group).take(pa.array(inside[first - begin : end - begin]))
            first, index = end, index + 1

    @cached_property
    def _row_groups(self) -> np.ndarray:
        """(row groups, 3) int64: part, row group, rows."""
        return np.array(list(self.manifest.row_groups()), dtype=np.int64)


def permutation(size: int, *, seed: int, epoch: int, stream: int) -> np.ndarray:
    """Permute range(size) by keyed hashes, so that the order outlives a change of library versions."""
    index = torch.arange(size, dtype=torch.int64)
    keys = rng.uniform(1, seed=seed, epoch=torch.full_like(index, epoch), sample_id=index, view=stream, op="order")
    return np.argsort(keys[:, 0].numpy(), kind="stable")
