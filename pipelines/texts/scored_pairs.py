"""Pairs of texts with a score, as the rows of a table name them."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines import schema
from pipelines.labels.labelled_rows import LeftOutNames
from pipelines.texts.table_cells import read_cells

NO_SCORE = "score that is no number"
NO_PAIR = "row without both texts and a score"


@dataclass(frozen=True, eq=False)
class ScoredPairs:
    """Pairs that can be judged, N of them.

    Attributes:
        texts: Manifest rows with `schema.ROW`, the pair's number: the first text of every pair,
            then the second of every one, (2 * N).
        scores: (N,) float64.
        left_out: Rows that are none, by reason.
    """

    texts: pa.Table
    scores: np.ndarray
    left_out: LeftOutNames


def read_pairs(uri: str, first: str, second: str, score: str) -> ScoredPairs:
    """Read which pairs a table has; of the texts their places alone.

    Args:
        uri: The table.
        first: Its column of first texts.
        second: Its column of second texts.
        score: Its column of scores.

    Raises:
        ValueError: it is no such table; with the remedy.
    """
    cells = read_cells(uri, (first, second, score), "test.first, test.second and test.score")
    pairs = list[int]()
    scores = list[float]()
    for number, found in cells.rows.items():
        value = _number(cells.says(number, score))
        if not {first, second, score} <= found.keys():
            cells.left_out.add(NO_PAIR, f"row {number}")
        elif value is None:
            cells.left_out.add(NO_SCORE, f"row {number}")
        else:
            pairs.append(number)
            scores.append(value)
    rows = [cells.sample(number, column) for column in (first, second) for number in pairs]
    numbers = pa.array(np.tile(np.arange(len(pairs)), 2), pa.int64())
    texts = pa.Table.from_pylist(rows, schema=schema.MANIFEST)
    return ScoredPairs(texts.append_column(schema.ROW, numbers), np.array(scores), cells.left_out)


def _number(text: str | None) -> float | None:
    """Read a cell as a number; None where it is none."""
    try:
        value = float((text or "").replace(",", "."))
    except ValueError:
        return None
    return value if np.isfinite(value) else None
