"""The quarantine: every sample that could not be used, with URI and reason, as Parquet parts in the
run directory.

A part is named by the plan item that met the samples, so a task that is run again overwrites its
own part.
"""

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import schema
from pipelines.corpus.left_out import most_frequent
from pipelines.media.contract import BadSample
from pipelines.storage import uris
from pipelines.storage.parquet_files import read_table


def bad_row(
    row: dict[str, Any], problem: BadSample, *, stage: str, epoch: int, run: str
) -> dict[str, Any]:
    """Describe one bad sample as a row of the quarantine table."""
    identity = {
        name: row[name] for name in (schema.SAMPLE_ID, schema.URI, schema.OFFSET, schema.LENGTH)
    }
    identity[schema.MEMBER] = row.get(schema.MEMBER)
    what = {"stage": stage, "reason": problem.reason, "message": problem.message}
    return identity | what | {schema.EPOCH: epoch, "run": run, "time": datetime.now(UTC)}


def write(folder: str, item: str, rows: list[dict[str, Any]]) -> None:
    """Write the bad samples of one plan item; nothing where there are none."""
    if rows:
        with uris.open_atomic(uris.join(folder, f"{item}.parquet")) as file:
            pq.write_table(pa.Table.from_pylist(rows, schema=schema.QUARANTINE), file)


def read(folder: str) -> list[dict[str, Any]]:
    """Read all parts, each sample once per epoch, ordered by URI; other files may lie about."""
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    for name in filter(_is_part, uris.list_names(folder)):
        part = read_table(uris.join(folder, name)).to_pylist()
        rows |= {(row[schema.EPOCH], row[schema.SAMPLE_ID]): row for row in part}
    return sorted(rows.values(), key=lambda row: (row[schema.URI], row[schema.EPOCH]))


def _is_part(name: str) -> bool:
    return name.endswith(".parquet") and not name.startswith(".")


def count_by_reason(rows: list[dict[str, Any]]) -> dict[str, int]:
    """Count distinct samples by reason, most frequent first."""
    distinct = {(row[schema.SAMPLE_ID], row["reason"]) for row in rows}
    return most_frequent(Counter(reason for _, reason in distinct))
