"""Which sample goes into which shard: the whole source in hash order, cut to shards of about equal size.

The plan is one Parquet file with a row group per shard, written once, so that a pack that was stopped goes on with it.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines import schema
from pipelines.corpus.manifest import Manifest
from pipelines.storage import uris
from pipelines.storage.parquet_files import open_parquet
from pipelines.storage.spill import NUM_BUCKETS, Spill, bucket_of

TAR_BLOCK = 512
ROWS_IN = b"rows_in"  # in the plan's metadata: rows of the source, those without bytes included
SAMPLES = pa.schema(
    [
        *(
            schema.MANIFEST.field(name)
            for name in (schema.SAMPLE_ID, schema.URI, schema.OFFSET, schema.LENGTH)
        ),
        pa.field("name", pa.string()),  # its suffix becomes the member's
        pa.field("media", pa.string()),
        # Where the user finds it: the above point at a copy where the source's rows are no byte ranges.
        pa.field("origin_uri", pa.string()),
        pa.field("origin_offset", pa.int64()),  # bytes, or the row of a Parquet file
        pa.field("origin_member", pa.string()),
    ]
)


def samples_of(manifest: Manifest) -> Iterator[pa.Table]:
    """Yield the samples of a manifest, schema `SAMPLES`; a video once, however many clips of it are listed."""
    for part, row_group, rows in manifest.row_groups():
        if rows:
            table = manifest.read_row_group(part, row_group)
            table = table.filter(pc.fill_null(pc.equal(table[schema.CLIP], 0), True))
            uri, member = table[schema.URI], table["member"]
            columns = [
                table[name] for name in (schema.SAMPLE_ID, schema.URI, schema.OFFSET, schema.LENGTH)
            ]
            columns += [pc.coalesce(member, uri), table["media"], uri, table[schema.OFFSET], member]
            yield pa.Table.from_arrays(columns, schema=SAMPLES)


class HashOrder:
    """Sorts samples by id, which is a hash, on local disk.

    Args:
        folder: A local folder, made here.
    """

    def __init__(self, folder: str) -> None:
        self._rows = Spill(folder, SAMPLES)

    def add(self, table: pa.Table) -> None:
        """Take samples in any order."""
        self._rows.add(table, bucket_of(table[schema.SAMPLE_ID].to_numpy()))

    def tables(self) -> Iterator[pa.Table]:
        """Yield all samples in order."""
        for bucket in range(NUM_BUCKETS):
            yield self._rows.read(bucket).sort_by(schema.SAMPLE_ID)

    def head(self, rows: int) -> pa.Table:
        """Read the first samples: a random choice."""
        tables: list[pa.Table] = []
        for table in self.tables():
            tables.append(table)
            if sum(piece.num_rows for piece in tables) >= rows:
                break
        return pa.concat_tables(tables).slice(0, rows)


def write_plan(uri: str, order: HashOrder, *, rows_in: int, shard_bytes: int, scale: float) -> None:
    """Cut the order to shards and write the plan.

    Args:
        uri: The file.
        order: All samples.
        rows_in: Rows of the source.
        shard_bytes: Of a shard, up to what the scale is wrong by.
        scale: Bytes a sample will have for each that it has now.
    """
    wanted = SAMPLES.with_metadata({ROWS_IN: str(rows_in).encode()})
    with uris.open_atomic(uri) as file, pq.ParquetWriter(file, wanted) as writer:
        waiting = SAMPLES.empty_table()
        for table in order.tables():
            waiting = pa.concat_tables([waiting, table])
            while (fitting := _fitting(waiting, shard_bytes, scale)) < waiting.num_rows:
                writer.write_table(waiting.slice(0, fitting).cast(wanted), row_group_size=fitting)
                waiting = waiting.slice(fitting)
        if waiting.num_rows:
            writer.write_table(waiting.cast(wanted), row_group_size=waiting.num_rows)


def _fitting(table: pa.Table, shard_bytes: int, scale: float) -> int:
    """Rows that fit a shard, at least one."""
    length = np.ceil(table[schema.LENGTH].to_numpy() * scale)
    ends = np.cumsum(TAR_BLOCK + np.ceil(length / TAR_BLOCK) * TAR_BLOCK)
    return max(1, int(np.searchsorted(ends, shard_bytes, side="right"))) if table.num_rows else 0


class PackPlan:
    """A plan that was written.

    Args:
        uri: The file.
    """

    def __init__(self, uri: str) -> None:
        self._file = open_parquet(uri)
        self.num_shards: int = self._file.num_row_groups
        self.num_rows: int = self._file.metadata.num_rows
        self.rows_in = int(self._file.schema_arrow.metadata[ROWS_IN])

    def read(self, shard: int) -> pa.Table:
        """Read the samples of a shard, schema `SAMPLES`."""
        return self._file.read_row_group(shard)
