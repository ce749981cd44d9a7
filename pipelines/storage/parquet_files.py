"""Reads and writes Parquet in any storage: of a large file the ranges that are asked for, of a
small one all in one request.

Through s3fs's own file, which reads 50 MiB ahead, a row group of 577 KiB cost 50 MiB of traffic,
and so much memory in every process for each file that it held open.
"""

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.storage import uris
from pipelines.storage.lease import Fence


def open_parquet(uri: str) -> pq.ParquetFile:
    """Open a file of which row groups will be read: its footer now, and of each row group only what
    is wanted.

    Raises:
        pyarrow.ArrowInvalid: it is no Parquet file.
        OSError: the storage failed.
    """
    fs, path = uris.filesystem(uri)
    if uris.is_local(uri):
        return pq.ParquetFile(path)
    # Columns that lie side by side come with one request.
    return pq.ParquetFile(pa.PythonFile(fs.open(path, "rb", cache_type="none")), pre_buffer=True)


def read_table(uri: str) -> pa.Table:
    """Read a whole small file."""
    return pq.read_table(pa.BufferReader(uris.read_bytes(uri)))


def write_table(uri: str, table: pa.Table, fence: Fence | None = None) -> None:
    """Write a table as a file that appears whole or not at all.

    Args:
        uri: Where to.
        table: What.
        fence: Of the lease on the folder: where it is lost, nothing appears.
    """
    with uris.open_atomic(uri) as file:
        pq.write_table(table, file)
        if fence:
            fence.check()
