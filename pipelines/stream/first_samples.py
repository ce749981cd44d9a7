"""The first samples of an order, their originals beside their views: for people to see, for health
to be judged by."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from augment.picture import Picture
from pipelines import schema
from pipelines.stream.orders import Order
from pipelines.stream.shapes import Centre, Columns, Filler, PairFiller, Shape

ORIGINAL = "original"  # (B, 3, S, S) uint8, the largest centred square
IMAGE_SIZE = "image_size"  # (B, 2) int64, height and width of the image, px


@dataclass(frozen=True, eq=False)
class FirstSamples:
    """The rows of a few positions, read already: the tasks then need no manifest of their own.

    Attributes:
        table: Manifest rows with `epoch` and `position`.
    """

    table: pa.Table

    @classmethod
    def of(cls, order: Order, start: int, stop: int) -> "FirstSamples":
        """Read positions [start, stop) of an order; they are counted from 0 here."""
        return cls(pa.concat_tables(order.rows(start, stop)))

    @classmethod
    def of_samples(
        cls, order: Order, start: int, stop: int, sample_ids: list[int]
    ) -> "FirstSamples":
        """Read those of positions [start, stop) that hold the given samples."""
        wanted = pa.array(sample_ids, pa.int64())
        return cls(
            pa.concat_tables(
                table.filter(pc.is_in(table[schema.SAMPLE_ID], value_set=wanted))
                for table in order.rows(start, stop)
            )
        )

    def rows(self, start: int, stop: int) -> Iterator[pa.Table]:
        """Yield the rows [start, stop)."""
        yield self.table.slice(start, stop - start)

    def names(self) -> list[str]:
        """Return the file name of every row, without folders."""
        pairs = zip(
            self.table["member"].to_pylist(), self.table[schema.URI].to_pylist(), strict=True
        )
        return [str(member or uri).rpartition("/")[2] for member, uri in pairs]


@dataclass(frozen=True)
class WithOriginal:
    """The columns of another shape, and each image's largest centred square and size."""

    shape: Shape
    size: int

    def empty(self, num_rows: int) -> Columns:
        """Allocate the other shape's columns, `original` and `image_size`."""
        original = Centre(self.size).empty(num_rows)[schema.IMAGE]
        return self.shape.empty(num_rows) | {
            ORIGINAL: original,
            IMAGE_SIZE: np.zeros((num_rows, 2), np.int64),
        }

    def filler(self, columns: Columns, epoch: np.ndarray, sample_id: np.ndarray) -> Filler:
        """Fill all columns from one decode."""
        others = {
            name: column for name, column in columns.items() if name not in (ORIGINAL, IMAGE_SIZE)
        }
        centre = Centre(self.size).filler({schema.IMAGE: columns[ORIGINAL]}, epoch, sample_id)
        return _WithOriginalFiller(
            self.shape.filler(others, epoch, sample_id), centre, columns[IMAGE_SIZE]
        )


@dataclass(frozen=True)
class _WithOriginalFiller:
    others: Filler
    original: Filler
    sizes: np.ndarray

    def reduction(self, row: int, height: int, width: int) -> int:
        return min(filler.reduction(row, height, width) for filler in (self.others, self.original))

    def fill(self, row: int, picture: Picture) -> None:
        self.others.fill(row, picture)
        self.original.fill(row, picture)
        self.sizes[row] = picture.height, picture.width

    def fill_pair(self, row: int, pixels: np.ndarray) -> None:
        cast(PairFiller, self.others).fill_pair(row, pixels)


def joined(blocks: Iterable[Any]) -> Columns:
    """Take the blocks of a few samples into memory, a column an array."""
    batches = list(blocks)
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
