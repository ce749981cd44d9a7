"""Parquet files with a column of image bytes, staged so that any row can be read by range.

A row of a Parquet file cannot be read alone, and hash order wants rows from everywhere: each row
group is copied once, by one task, to a file of nothing but its rows' bytes. The copies are deleted
when the shards are written.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray.data

from pipelines import schema
from pipelines.corpus.entry import Entry
from pipelines.corpus.file_kinds import TAR, kind_of, media_of
from pipelines.corpus.left_out import NO_EPOCH
from pipelines.corpus.listed_rows import sample_id
from pipelines.corpus.listing import entries
from pipelines.media.contract import BadSample
from pipelines.packing.pack_plan import SAMPLES
from pipelines.packing.texts_beside import BESIDE, BESIDE_TYPE
from pipelines.ray_tasks import map_in_tasks, said_to
from pipelines.storage import uris
from pipelines.storage.parquet_files import open_parquet, read_table, write_table
from pipelines.storage.small_files import read_many, side_by_side
from pipelines.stream import quarantine

COLUMNS = ("bytes", "image")  # looked for where the user names none
PROBED = 1000  # files of a folder that tell whether it is one of Parquet files
BATCH_ROWS = 64
MAX_TASKS = 4096


@dataclass(frozen=True)
class Staging:
    """Where row groups are copied to.

    Attributes:
        folder: Of the copies.
        quarantine: Folder of the quarantine table, for rows without bytes.
        column: Of the bytes; None: the first of `COLUMNS` that is there.
    """

    folder: str
    quarantine: str
    column: str | None


def is_parquet(uri: str) -> bool:
    """Tell whether a source is a Parquet file, a pattern of them, or a folder that holds them and
    no samples."""
    if uri.lower().endswith(".parquet"):
        return True
    found = False
    for number, entry in enumerate(entries(uri)):
        if media_of(entry.uri) or kind_of(entry.uri).what == TAR:
            return False
        found |= entry.uri.lower().endswith(".parquet")
        if number >= PROBED:
            break
    return found


def stage(uri: str, staging: Staging) -> Iterator[pa.Table]:
    """Copy the row groups of all Parquet files of a source that are not copied yet.

    Yields:
        The samples, schema `SAMPLES`, a table a row group.

    Raises:
        ValueError: no Parquet file, or one without the column.
    """
    files = sorted({entry for entry in entries(uri) if entry.uri.lower().endswith(".parquet")})
    if not files:
        raise ValueError(
            f"source.uri {uri} holds no Parquet file, and source.bytes_column is for those alone"
        )
    items = list(chain.from_iterable(side_by_side(partial(_items, staging=staging), files)))
    if items:
        _check_bytes(items[0])
    there = set(uris.list_names(staging.folder))
    missing = [item for item in items if f"{item['name']}.parquet" not in there]
    if missing:
        dataset = ray.data.from_items(missing, override_num_blocks=min(len(missing), MAX_TASKS))
        dataset.context.execution_no_progress_timeout_s = -1
        copy = partial(_stage_batch, staging=staging)
        staged = map_in_tasks(dataset, copy, batch_size=1, batch_format="pyarrow")
        said_to(staged, "copying pieces of Parquet files", len(missing))
        for _ in staged.iter_batches(batch_size=None):
            pass
    names = [f"{item['name']}.parquet" for item in items]
    yield from map(_completed, read_many(staging.folder, names, read_table))


def _completed(table: pa.Table) -> pa.Table:
    """Add the column of texts beside a sample to what an earlier release staged."""
    if BESIDE in table.column_names:
        return table
    return table.append_column(SAMPLES.field(BESIDE), pa.nulls(len(table), BESIDE_TYPE))


def num_rows(uri: str) -> int:
    """Count the rows of all Parquet files of a source."""
    files = [entry.uri for entry in entries(uri) if entry.uri.lower().endswith(".parquet")]
    return sum(side_by_side(_num_rows, files))


def _num_rows(uri: str) -> int:
    return int(_open(uri).metadata.num_rows)


def _open(uri: str) -> pq.ParquetFile:
    try:
        return open_parquet(uri)
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"source.uri: {uri} is no Parquet file: {str(error).splitlines()[0]}"
        ) from None


def _items(file: Entry, staging: Staging) -> list[dict[str, Any]]:
    """Return one item for each row group of a file, once its column is found.

    A copy is named by what it is a copy of: files may come and go between the tries of a pack.
    """
    parquet = _open(file.uri)
    column = _column(file.uri, parquet.schema_arrow, staging.column)
    content = hashlib.blake2b(f"{file.uri}\0{file.etag}".encode(), digest_size=16).hexdigest()
    items = list[dict[str, Any]]()
    first = 0
    for row_group in range(parquet.num_row_groups):
        name = f"{content}-{row_group:06d}"
        what = {
            "name": name,
            "uri": file.uri,
            "etag": file.etag,
            "row_group": row_group,
            "first": first,
        }
        items.append(what | {"column": column})
        first += parquet.metadata.row_group(row_group).num_rows
    return items


def _column(uri: str, columns: pa.Schema, wanted: str | None) -> str:
    names = [name for name in ((wanted,) if wanted else COLUMNS) if name in columns.names]
    fitting = [name for name in names if _is_bytes(columns.field(name).type)]
    if not fitting:
        there = ", ".join(f"{field.name} ({field.type})" for field in columns)
        raise ValueError(
            f"source.bytes_column {wanted or ' or '.join(COLUMNS)} is no column of bytes in {uri}:"
            f" it has {there}"
        )
    return fitting[0]


def _is_bytes(kind: pa.DataType) -> bool:
    """Tell bytes, or what Hugging Face makes of images, a struct of bytes and path, from other
    types."""
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _is_bytes(kind.field("bytes").type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _stage_batch(items: pa.Table, staging: Staging) -> pa.Table:
    return pa.table({"rows": [_stage_row_group(item, staging) for item in items.to_pylist()]})


def _stage_row_group(item: dict[str, Any], staging: Staging) -> int:
    """Copy one row group; the table of its samples is written last and says that the copy is
    whole."""
    blob = uris.join(staging.folder, f"{item['name']}.bin")
    samples: list[dict[str, Any]] = []
    bad: list[dict[str, Any]] = []
    with uris.open_atomic(blob) as file:
        offset = 0
        for row, (data, path) in enumerate(_values(item), start=item["first"]):
            identity = sample_id(item["uri"], f"row {row}", item["etag"])
            origin = {"origin_uri": item["uri"], "origin_offset": row, "origin_member": path}
            sample = {
                schema.SAMPLE_ID: identity,
                schema.URI: blob,
                schema.OFFSET: offset,
                schema.LENGTH: len(data),
            }
            if not data:
                bad.append(_bad_row(sample, origin))
                continue
            file.write(data)
            offset += len(data)
            samples.append(
                sample | origin | {"name": path, "media": media_of(path or "") or "image"}
            )
    quarantine.write(staging.quarantine, f"staged-{item['name']}", bad)
    place = uris.join(staging.folder, f"{item['name']}.parquet")
    write_table(place, pa.Table.from_pylist(samples, schema=SAMPLES))
    return len(samples)


def _values(item: dict[str, Any]) -> Iterator[tuple[bytes, str | None]]:
    """Return bytes and name of each row of a row group; no bytes where they are null."""
    parquet = _open(item["uri"])
    for batch in parquet.iter_batches(
        BATCH_ROWS, row_groups=[item["row_group"]], columns=[item["column"]]
    ):
        for value in batch.column(0).to_pylist():
            whole = value if isinstance(value, dict) else {"bytes": value}
            yield whole["bytes"] or b"", whole.get("path")


def _check_bytes(item: dict[str, Any]) -> None:
    """Refuse rows that only say where their files lie.

    Raises:
        ValueError: none of the first ones holds bytes, and one holds a path.
    """
    first = list(islice(_values(item), BATCH_ROWS))
    path = next((path for _, path in first if path), None)
    if path and not any(data for data, _ in first):
        raise ValueError(
            f"source.uri: {item['uri']} holds paths ({path}, ...) and no bytes in column "
            f"{item['column']}: give the folder of the files themselves as source.uri"
        )


def _bad_row(sample: dict[str, Any], origin: dict[str, Any]) -> dict[str, Any]:
    found_at = sample | {schema.URI: origin["origin_uri"], schema.OFFSET: origin["origin_offset"]}
    found_at[schema.MEMBER] = origin["origin_member"]
    path = origin["origin_member"]
    what = f" but a path ({path})" if path else ""
    problem = BadSample("empty", f"row {origin['origin_offset']} has no bytes{what}")
    return quarantine.bad_row(found_at, problem, stage="fetch", epoch=NO_EPOCH, run="pack")
