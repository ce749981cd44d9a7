"""Reads some rows of exported embeddings, or some columns of all: to find a sample, and to say what
it is."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.embeddings import lance_files
from pipelines.embeddings.stored import BLOCK_ROWS, Stored
from pipelines.storage import uris
from pipelines.storage.parquet_files import open_parquet
from pipelines.storage.small_files import side_by_side

_MARKS = ("ETag", "etag", "mtime", "LastModified", "last_modified")


def scan(stored: Stored, columns: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
    """Yield the first row of each piece and its columns, in order; of columns that earlier versions
    did not write, nulls."""
    there = [name for name in columns if name in stored.names]
    start = 0
    for table in _tables(stored, there):
        yield start, _completed(table, columns)
        start += table.num_rows


def _tables(stored: Stored, columns: list[str]) -> Iterator[pa.Table]:
    if stored.format == "lance":
        dataset = lance_files.open_dataset(stored.uri)
        batches = dataset.to_batches(columns=columns, batch_size=BLOCK_ROWS, scan_in_order=True)
        return (pa.Table.from_batches([batch]) for batch in batches)

    def read(part: str) -> pa.Table:
        with open_parquet(uris.join(stored.uri, part)) as file:
            return file.read(columns=columns)

    return side_by_side(read, stored.parts)


def _completed(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    for name in columns:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(table.num_rows))
    return table.select(list(columns))


def take(stored: Stored, rows: Sequence[int], columns: Sequence[str]) -> pa.Table:
    """Read some rows, numbered as `Stored.blocks` gives them, in the order of their numbers here.

    Of Parquet, whole row groups are read, and of those the columns that are asked for.
    """
    there = [name for name in columns if name in stored.names]
    if stored.format == "lance":
        taken = lance_files.open_dataset(stored.uri).take(list(rows), there)
        return _completed(taken, columns)
    ends = _ends(stored.uri, stored.parts, digest_of(stored))
    wanted = np.asarray(rows, np.int64)
    part_of = np.searchsorted(ends, wanted, side="right")
    found = list[pa.Table]()
    places = list[np.ndarray]()
    for part in np.unique(part_of).tolist():
        here = np.flatnonzero(part_of == part)
        start = int(ends[part - 1]) if part else 0
        with open_parquet(uris.join(stored.uri, stored.parts[part])) as file:
            found.append(_of_file(file, wanted[here] - start, there))
        places.append(here)
    order = np.argsort(np.concatenate(places), kind="stable")
    return _completed(pa.concat_tables(found).take(pa.array(order)), columns)


def _of_file(file: pq.ParquetFile, rows: np.ndarray, columns: list[str]) -> pa.Table:
    """Read rows of one file, in their order."""
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    ends = np.cumsum(sizes)
    group_of = np.searchsorted(ends, rows, side="right")
    groups, index = np.unique(group_of, return_inverse=True)
    table = file.read_row_groups(groups.tolist(), columns=columns)
    lengths = np.array(sizes)[groups]
    before = np.cumsum(lengths) - lengths  # rows of the groups read that come before each
    return table.take(pa.array(before[index] + rows - (ends - sizes)[group_of]))


@lru_cache(maxsize=4)
def _ends(uri: str, parts: tuple[str, ...], digest: str) -> np.ndarray:
    """Return behind which row each part ends; `digest` tells files from those before them."""

    def num_rows(part: str) -> int:
        with open_parquet(uris.join(uri, part)) as file:
            return int(file.metadata.num_rows)

    return np.cumsum(list(side_by_side(num_rows, parts)))


def digest_of(stored: Stored) -> str:
    """Hash which files hold the vectors: another value once any of them was written anew."""
    fs, path = uris.filesystem(stored.uri)
    if stored.format == "lance":
        told: list[object] = [lance_files.open_dataset(stored.uri).version]
    else:
        entries = fs.ls(path, detail=True)
        found = {entry["name"].rpartition("/")[2]: entry for entry in entries}
        told = [
            [part, found[part]["size"], *(str(found[part].get(mark)) for mark in _MARKS)]
            for part in stored.parts
        ]
    text = json.dumps([stored.name, stored.column.artifact_digest, told])
    return hashlib.sha256(text.encode()).hexdigest()
