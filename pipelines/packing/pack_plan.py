"""Which sample goes into which shard: the whole source in hash order, cut to shards of about equal
size.

The plan is a folder of Parquet files with a row group per shard, written once, so that a pack that
was stopped goes on with it. A task reads the footer of one file: of a single file for 10^5 shards
that would be 92 MiB.
"""

import json
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines import schema
from pipelines.corpus.manifest import Manifest
from pipelines.packing.texts_beside import BESIDE, BESIDE_TYPE, TextsBeside
from pipelines.storage import uris
from pipelines.storage.parquet_files import open_parquet
from pipelines.storage.spill import NUM_BUCKETS, Spill, bucket_of

TAR_BLOCK = 512
SHARDS_PER_FILE = 256
RECORD = "plan.json"  # written last; `rows_in` are rows of the source, those without bytes included
ROWS_IN = b"rows_in"  # where earlier releases kept them, in the file's metadata
SAMPLES = pa.schema(
    [
        *(
            schema.MANIFEST.field(name)
            for name in (schema.SAMPLE_ID, schema.URI, schema.OFFSET, schema.LENGTH)
        ),
        pa.field("name", pa.string()),  # its suffix becomes the member's
        pa.field("media", pa.string()),
        # Where the user finds it: the above point at a copy where the source's rows are no byte
        # ranges.
        pa.field("origin_uri", pa.string()),
        pa.field("origin_offset", pa.int64()),  # bytes, or the row of a Parquet file
        pa.field("origin_member", pa.string()),
        pa.field(BESIDE, BESIDE_TYPE),
    ]
)


def samples_of(manifest: Manifest) -> Iterator[pa.Table]:
    """Yield the samples of a manifest, schema `SAMPLES`; a video once, however many clips of it are
    listed."""
    texts = TextsBeside(manifest)
    for part, row_group, rows in manifest.row_groups():
        if rows:
            table = manifest.read_row_group(part, row_group)
            table = table.filter(pc.fill_null(pc.equal(table[schema.CLIP], 0), True))
            uri = table[schema.URI]
            member = table["member"]
            columns = [
                table[name] for name in (schema.SAMPLE_ID, schema.URI, schema.OFFSET, schema.LENGTH)
            ]
            columns += [pc.coalesce(member, uri), table["media"], uri, table[schema.OFFSET], member]
            columns.append(texts.of(uri.to_pylist(), member.to_pylist()))
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
        uri: Its folder.
        order: All samples.
        rows_in: Rows of the source.
        shard_bytes: Of a shard, up to what the scale is wrong by.
        scale: Bytes a sample will have for each that it has now.
    """
    shards = cut_to_shards(order.tables(), shard_bytes, scale)
    num_rows: list[int] = []
    while some := list(islice(shards, SHARDS_PER_FILE)):
        with (
            uris.open_atomic(_file(uri, len(num_rows))) as file,
            pq.ParquetWriter(file, SAMPLES) as writer,
        ):
            for shard in some:
                writer.write_table(shard, row_group_size=shard.num_rows)
        num_rows += [shard.num_rows for shard in some]
    record = {"num_shards": len(num_rows), "num_rows": sum(num_rows), "rows_in": rows_in}
    uris.write_bytes(uris.join(uri, RECORD), json.dumps(record).encode())


def _file(uri: str, shard: int) -> str:
    return uris.join(uri, f"{shard // SHARDS_PER_FILE:06d}.parquet")


def cut_to_shards(tables: Iterable[pa.Table], shard_bytes: int, scale: float) -> Iterator[pa.Table]:
    """Cut samples, in order, to as many as fill a shard, at least one."""
    waiting = SAMPLES.empty_table()
    for table in tables:
        waiting = pa.concat_tables([waiting, table])
        start = 0
        for stop in _edges(waiting, shard_bytes, scale):
            yield waiting.slice(start, stop - start)
            start = stop
        waiting = waiting.slice(start)
    if waiting.num_rows:
        yield waiting


def _edges(table: pa.Table, shard_bytes: int, scale: float) -> Iterator[int]:
    """Yield behind which row each shard ends that more rows follow."""
    length = np.ceil(table[schema.LENGTH].to_numpy() * scale)
    ends = np.cumsum(TAR_BLOCK + np.ceil(length / TAR_BLOCK) * TAR_BLOCK)
    start = 0
    filled = 0.0
    while start < table.num_rows:
        full = int(np.searchsorted(ends, filled + shard_bytes, side="right"))
        start = max(start + 1, full)
        if start >= table.num_rows:
            return
        yield start
        filled = float(ends[start - 1])


def is_planned(uri: str) -> bool:
    """Tell whether the plan in a folder is whole."""
    return uris.exists(uris.join(uri, RECORD)) or uris.exists(f"{uri}.parquet")


class PackPlan:
    """A plan that was written.

    Args:
        uri: Its folder; of a pack begun by an earlier release, a single file beside it.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._open = lru_cache(maxsize=2)(open_parquet)
        self._single = not uris.exists(uris.join(uri, RECORD))
        if self._single:
            file = self._open(f"{uri}.parquet")
            self.num_shards = int(file.num_row_groups)
            self.num_rows = int(file.metadata.num_rows)
            self.rows_in = int(file.schema_arrow.metadata[ROWS_IN])
            return
        record = json.loads(uris.read_bytes(uris.join(uri, RECORD)))
        self.num_shards = int(record["num_shards"])
        self.num_rows = int(record["num_rows"])
        self.rows_in = int(record["rows_in"])

    def read(self, shard: int) -> pa.Table:
        """Read the samples of a shard, schema `SAMPLES`; earlier plans name no files beside
        them."""
        if self._single:
            return self._open(f"{self._uri}.parquet").read_row_group(shard)
        return self._open(_file(self._uri, shard)).read_row_group(shard % SHARDS_PER_FILE)
