"""Samples that are rows of numbers and no pictures: how they are read, and what they are in a
block."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from augment.picture import Picture
from pipelines import schema
from pipelines.media.contract import BadSample
from pipelines.media.decoder import Decoder, File
from pipelines.stream.payload import Payload
from pipelines.stream.shapes import Columns
from pipelines.stream.stage_times import Stopwatch


class Series(Protocol):
    """Reads samples of one medium; what is drawn of each is keyed by the sample."""

    def wanted(self, rows: pa.Table) -> Sequence[Any]:
        """Draw what is taken of each of B samples.

        Args:
            rows: Manifest rows with `epoch`.
        """

    def read(self, payload: bytes | File, wanted: Any, decoder: Decoder) -> np.ndarray:
        """Read what is taken of a sample, (V, L): a row for each of its views.

        Raises:
            BadSample: it cannot be used.
        """


@dataclass(frozen=True)
class NumberRows:
    """The views of samples that are rows of numbers.

    Attributes:
        counts: Column to how many views it holds; they are filled in this order.
        size: L.
        dtype: Of the numbers, as NumPy names it.
        single: Columns without the dimension of views: of one view each.
        times: Whether columns say when the sample was on display, as those of videos do: never.
    """

    counts: dict[str, int]
    size: int
    dtype: str
    single: bool = False
    times: bool = False

    def empty(self, num_rows: int) -> Columns:
        """Allocate (B, V, L) a column, (B, L) of single views; and the times (B,) float64."""
        shapes = {
            name: (num_rows, self.size) if self.single else (num_rows, count, self.size)
            for name, count in self.counts.items()
        }
        columns = {name: np.empty(shape, self.dtype) for name, shape in shapes.items()}
        times = (schema.START_S, schema.END_S) if self.times else ()
        return columns | {name: np.full(num_rows, np.nan) for name in times}

    def filler(self, columns: Columns, epoch: np.ndarray, sample_id: np.ndarray) -> "NumberFiller":
        """Prepare to fill the columns; nothing is drawn here."""
        return NumberFiller({name: columns[name] for name in self.counts})


@dataclass(frozen=True)
class NumberFiller:
    """Fills rows of numbers."""

    columns: Columns

    def reduction(self, row: int, height: int, width: int) -> int:
        """Say that pictures would not be decoded smaller: there are none."""
        return 1

    def fill(self, row: int, picture: Picture) -> None:
        """Refuse pictures.

        Raises:
            TypeError: always.
        """
        raise TypeError("a picture, where rows of numbers are wanted")

    def fill_numbers(self, row: int, values: np.ndarray) -> None:
        """Fill a row's views from (V, L), those of all columns one after the other."""
        start = 0
        for column in self.columns.values():
            target = column[row] if column.ndim == 3 else column[row : row + 1]
            target[...] = values[start : start + len(target)]
            start += len(target)


@dataclass(frozen=True)
class SeriesRows:
    """Reads samples of a series into the rows of a block.

    Attributes:
        filler: Of the block.
        series: What reads.
        decoder: What decodes where a file may do harm.
        clock: Takes the time.
    """

    filler: NumberFiller
    series: Series
    decoder: Decoder
    clock: Stopwatch

    def fill(self, index: int, payload: Payload, wanted: Any, *_: None) -> None:
        """Fill a row from its file.

        Raises:
            BadSample: it cannot be used.
        """
        with self.clock.time("decode"):
            if isinstance(payload, BadSample):
                raise payload
            values = self.series.read(payload, wanted, self.decoder)
        self.filler.fill_numbers(index, values)
