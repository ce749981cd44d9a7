"""Tables larger than memory: rows on local disk, split into buckets that fit."""

import os

import numpy as np
import pyarrow as pa

NUM_BUCKETS = 256  # a bucket is worked on in memory: 10^9 rows make buckets of 4 * 10^6
FLUSH_ROWS = 1 << 18  # held back, so that a bucket grows by about 1 000 rows at a time


def bucket_of(hashes: np.ndarray) -> np.ndarray:
    """Give each signed 64-bit hash its bucket; buckets follow the order of the hashes."""
    return (hashes >> 56) + NUM_BUCKETS // 2


class Spill:
    """Rows in `NUM_BUCKETS` files, each a row of Arrow streams, so that no file stays open.

    Args:
        folder: A local folder, made here.
        schema: Of all rows.
    """

    def __init__(self, folder: str, schema: pa.Schema) -> None:
        os.makedirs(folder)
        self._folder = folder
        self._schema = schema
        self._tables: list[pa.Table] = []
        self._buckets: list[np.ndarray] = []
        self._waiting = 0
        self.num_rows = 0

    def add(self, table: pa.Table, bucket: np.ndarray) -> None:
        """Keep rows, each in its bucket (N,)."""
        self._tables.append(table)
        self._buckets.append(bucket)
        self._waiting += table.num_rows
        self.num_rows += table.num_rows
        if self._waiting >= FLUSH_ROWS:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        bucket = np.concatenate(self._buckets)
        order = np.argsort(bucket, kind="stable")
        table = pa.concat_tables(self._tables).combine_chunks().take(pa.array(order))
        edges = np.searchsorted(bucket[order], np.arange(NUM_BUCKETS + 1))
        for key in np.flatnonzero(np.diff(edges)).tolist():
            piece = table.slice(edges[key], edges[key + 1] - edges[key])
            with (
                open(self._path(key), "ab") as file,
                pa.ipc.new_stream(file, self._schema) as writer,
            ):
                writer.write_table(piece)
        self._tables = []
        self._buckets = []
        self._waiting = 0

    def _path(self, bucket: int) -> str:
        return os.path.join(self._folder, f"{bucket:03d}")

    def read(self, bucket: int) -> pa.Table:
        """Read all rows of a bucket, in the order in which they came."""
        self._flush()
        tables = [self._schema.empty_table()]
        if os.path.exists(self._path(bucket)):
            with open(self._path(bucket), "rb") as file:
                size = os.fstat(file.fileno()).st_size
                while file.tell() < size:
                    tables.append(pa.ipc.open_stream(file).read_all())
        return pa.concat_tables(tables)
