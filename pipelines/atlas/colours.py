"""What a map is coloured by: columns of any kind, as small codes of every sample.

A column of classes: 0 for samples without one, then the most frequent classes, then one code for
all others together. A column of numbers or times: 0 for samples without one, then 65,535 steps.
"""

import datetime
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

CLASSES = 40  # that have a colour of their own: more cannot be told apart
MOST_CLASSES = 10_000  # more distinct words are no classes: names, captions
STEPS = 65_535
MISSING = 0
Kind = Literal["class", "number", "time"]


@dataclass(frozen=True, eq=False)
class Colour:
    """One way to colour the samples.

    Attributes:
        name: Of the column.
        kind: What it holds.
        codes: (n,) uint8 of classes, uint16 of numbers and times.
        classes: Name and count of each code from 1 on; of the others together last, if any are.
        others: How many classes the last one stands for; 0 where each has its own.
        missing: Samples without a value.
        low, high: Of numbers and times (s since 1970), the values of the first and the last step.
    """

    name: str
    kind: Kind
    codes: np.ndarray
    missing: int
    classes: list[tuple[str, int]] = field(default_factory=list)
    others: int = 0
    low: float = 0.0
    high: float = 0.0

    def told(self) -> dict[str, Any]:
        """Return what the page says of it, the codes left out."""
        return {
            "name": self.name,
            "kind": self.kind,
            "missing": self.missing,
            "classes": [list(one) for one in self.classes],
            "others": self.others,
            "low": self.low,
            "high": self.high,
        }

    def taken(self, order: np.ndarray) -> "Colour":
        """Return it for samples in another order."""
        return Colour(
            self.name,
            self.kind,
            self.codes[order],
            self.missing,
            self.classes,
            self.others,
            self.low,
            self.high,
        )


def of_numbers(name: str, values: np.ndarray, kind: Kind = "number") -> Colour:
    """Colour by numbers, or by times in seconds since 1970.

    The lowest and the highest hundredth share the ends of the scale: one outlier would leave a
    single colour for all others.

    Args:
        name: Of the column.
        values: (n,) float64; not finite where there is none.
        kind: `number` or `time`.
    """
    there = np.isfinite(values)
    codes = np.full(len(values), MISSING, np.uint16)
    if not there.any():
        return Colour(name, kind, codes, len(values))
    low, high = np.quantile(values[there], (0.01, 0.99))
    span = high - low if high > low else 1.0
    steps = np.clip((values[there] - low) / span, 0, 1) * (STEPS - 1)
    codes[there] = 1 + np.round(steps).astype(np.uint16)
    missing = int((~there).sum())
    return Colour(name, kind, codes, missing, low=float(low), high=float(high))


def of_codes(name: str, codes: np.ndarray, words: list[str], *, by_count: bool = True) -> Colour:
    """Colour by classes.

    Args:
        name: Of the column.
        codes: (n,) indices of words, -1 where there is none.
        words: The classes.
        by_count: Whether the most frequent one comes first, of equal ones by the alphabet; else the
            first word.
    """
    counts = np.bincount(codes[codes >= 0], minlength=len(words))
    order = np.lexsort((np.array(words), -counts)) if by_count else np.arange(len(words))
    order = order[counts[order] > 0]
    shown = order if len(order) <= CLASSES + 1 else order[:CLASSES]
    rest = order[len(shown) :]
    code_of = np.full(len(words) + 1, MISSING, np.uint8)  # the last is that of -1
    code_of[shown] = np.arange(1, len(shown) + 1)
    code_of[rest] = len(shown) + 1
    classes = [(words[word], int(counts[word])) for word in shown.tolist()]
    if len(rest):
        classes.append((f"{len(rest):,} other classes", int(counts[rest].sum())))
    missing = int((codes < 0).sum())
    return Colour(name, "class", code_of[codes], missing, classes, others=len(rest))


class ColumnCodes:
    """Gathers a column piece by piece, a code or a number a sample.

    Args:
        name: Of the column.
        kind: Its type.

    Attributes:
        is_unfit: Whether it holds too many distinct words to be classes.
    """

    def __init__(self, name: str, kind: pa.DataType) -> None:
        self.name = name
        self.is_unfit = False
        self._is_time = pa.types.is_temporal(kind)
        self._is_number = pa.types.is_floating(kind) or self._is_time
        self._is_integer = pa.types.is_integer(kind)
        self._index = dict[str, int]()
        self._pieces = list[np.ndarray]()

    @classmethod
    def takes(cls, kind: pa.DataType) -> bool:
        """Tell whether a type of column can be shown in colours."""
        told = (pa.types.is_string, pa.types.is_large_string, pa.types.is_boolean)
        numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_temporal)
        return any(is_so(kind) for is_so in (*told, *numbers))

    def add(self, column: pa.ChunkedArray) -> None:
        """Take the values of further samples."""
        if self.is_unfit:
            return
        if self._is_number or self._is_integer:
            self._pieces.append(numbers_of(column))
            return
        values = column.combine_chunks().cast(pa.string()).dictionary_encode()
        words = values.dictionary.to_pylist()
        code_of = [self._index.setdefault(word, len(self._index)) for word in words]
        self.is_unfit = len(self._index) > MOST_CLASSES
        if self.is_unfit:
            self._pieces.clear()
            return
        places = pc.fill_null(values.indices, len(words)).to_numpy(zero_copy_only=False)
        self._pieces.append(np.array([*code_of, -1], np.int32)[places])

    def colour(self) -> Colour:
        """Return what was gathered as colours."""
        values = np.concatenate([np.empty(0), *self._pieces])
        if self._is_time:
            return of_numbers(self.name, values, "time")
        if self._is_number:
            return of_numbers(self.name, values)
        if not self._is_integer:
            return of_codes(self.name, values.astype(np.int64), list(self._index))
        there = np.isfinite(values)
        distinct = np.unique(values[there])
        is_label = self.name in ("label", "labels", "class")
        if len(distinct) > (MOST_CLASSES if is_label else CLASSES):
            return of_numbers(self.name, values)
        codes = np.where(there, np.searchsorted(distinct, np.nan_to_num(values)), -1)
        words = [f"{int(value)}" for value in distinct]
        return of_codes(self.name, codes.astype(np.int64), words, by_count=is_label)


def numbers_of(column: pa.ChunkedArray) -> np.ndarray:
    """Return numbers as float64, times as seconds since 1970; NaN for nulls."""
    values = column.combine_chunks()
    if pa.types.is_time(values.type) or pa.types.is_duration(values.type):
        values = values.cast(pa.int64())
    elif pa.types.is_temporal(values.type):
        micros = values.cast(pa.timestamp("us"), safe=False).cast(pa.int64())
        return np.asarray(micros.to_numpy(zero_copy_only=False), np.float64) / 1e6
    return np.asarray(
        values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64
    )


def shown_value(value: Any) -> str | int | float | bool | None:
    """Return a value of a column as the page shows it."""
    if value is None or isinstance(value, bool | int):
        return value if not isinstance(value, int) or abs(value) < 1 << 53 else str(value)
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, datetime.datetime):
        return value.isoformat(" ", "seconds")
    text = str(value)
    return text if len(text) <= 400 else f"{text[:399]}…"
