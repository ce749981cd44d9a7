"""Texts with labels, a row of a table each."""

from typing import Any

import pyarrow as pa

from pipelines import schema
from pipelines.labels import label_tables
from pipelines.labels.label_tables import Columns, labels_of, split_of
from pipelines.labels.labelled_rows import LabelledRows, named_rows
from pipelines.texts.table_cells import read_cells

NO_TEXT = "row without a text"


def read_labelled_texts(uri: str, columns: Columns, *, wants_labels: bool) -> LabelledRows:
    """Read which texts a table has, and what it says of them; of the texts their places alone.

    Args:
        uri: The table.
        columns: Which of its columns hold what; `columns.text` the texts.
        wants_labels: Whether a row without a class is none.

    Raises:
        ValueError: it is no such table, with the remedy.
    """
    assert columns.text is not None
    label = columns.label or "label"
    beside = [name for name in (columns.split, columns.group) if name is not None]
    wanted = (columns.text, *((label,) if wants_labels else ()), *beside)
    cells = read_cells(uri, wanted, "columns.text and columns.label")
    rows = list[dict[str, Any]]()
    told: dict[str, list[Any]] = {
        name: [] for name in (schema.NAME, schema.LABELS, schema.SPLIT, schema.GROUP)
    }
    for number, found in cells.rows.items():
        name = f"row {number}"
        labels = labels_of(cells.says(number, label), columns.mark) if wants_labels else ()
        split = split_of(cells.says(number, columns.split)) if columns.split else ""
        if columns.text not in found:
            cells.left_out.add(NO_TEXT, name)
        elif wants_labels and not labels:
            cells.left_out.add(label_tables.NO_LABEL, name)
        elif split is None:
            cells.left_out.add(label_tables.ODD_SPLIT, name)
        else:
            rows.append(cells.sample(number, columns.text))
            told[schema.NAME].append(name)
            told[schema.LABELS].append(list(labels or ()))
            told[schema.SPLIT].append(split or None)
            told[schema.GROUP].append(cells.says(number, columns.group) if columns.group else None)
    listed = pa.Table.from_pylist(rows, schema=schema.MANIFEST)
    return LabelledRows(named_rows(listed, told), cells.left_out)
