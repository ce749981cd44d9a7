"""The manifest: a corpus listed once, as immutable versions of Parquet parts.

<manifest>/parts/000001-00000.parquet       rows in hash order, or one row group per tar shard in offset order
<manifest>/versions/000001.json             the parts of a version, written last: a crash leaves the last version intact
"""

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines import schema, storage
from pipelines.listing import LEFT_OUT

ROW_GROUP_ROWS = 8192
PART_ROWS = 1 << 20
NUM_BUCKETS = 256  # a bucket is sorted in memory: 10^9 rows make buckets of 4 * 10^6


@dataclass(frozen=True)
class Part:
    """One Parquet file of a manifest: its path below the manifest and the rows of each of its row groups."""

    path: str
    row_groups: tuple[int, ...]


@dataclass(frozen=True)
class Manifest:
    """One version of a corpus.

    Attributes:
        uri: Where the manifest lies.
        version: Counts from 1.
        source: The URI that was listed.
        parts: The files, in order.
        left_out: Files that are no samples, by reason.
    """

    uri: str
    version: int
    source: str
    parts: tuple[Part, ...]
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        """Samples of this version."""
        return sum(sum(part.row_groups) for part in self.parts)

    def read_row_group(self, part: int, row_group: int) -> pa.Table:
        """Read one row group, columns of `schema.MANIFEST`."""
        return _parquet(storage.join(self.uri, self.parts[part].path)).read_row_group(row_group)

    def row_groups(self) -> Iterator[tuple[int, int, int]]:
        """Yield (part, row group, rows) in order."""
        for part, entry in enumerate(self.parts):
            for row_group, rows in enumerate(entry.row_groups):
                yield part, row_group, rows


@lru_cache(maxsize=8)
def _parquet(uri: str) -> pq.ParquetFile:
    fs, path = storage.arrow_filesystem(uri)
    return pq.ParquetFile(fs.open_input_file(path))


def versions(uri: str) -> list[int]:
    """Version numbers of the manifest at a URI, ascending; none where there is no manifest."""
    names = storage.list_names(storage.join(uri, "versions"))
    return [int(name.removesuffix(".json")) for name in names if name.endswith(".json")]


def open_manifest(uri: str, version: int | None = None) -> Manifest:
    """Open a version of a manifest, the newest by default.

    Raises:
        ValueError: there is no manifest, or not that version.
    """
    found = versions(uri)
    if not found or (version or found[-1]) not in found:
        raise ValueError(f"{uri} holds no manifest{f' version {version}' if version else ''}: make one with jobs.index")
    text = storage.read_bytes(storage.join(uri, "versions", f"{version or found[-1]:06d}.json"))
    record = json.loads(text)
    parts = tuple(Part(part["path"], tuple(part["row_groups"])) for part in record["parts"])
    return Manifest(storage.absolute(uri), record["version"], record["source"], parts, record["left_out"])


def write_manifest(uri: str, source: str, tables: Iterable[pa.Table]) -> Manifest:
    """Write listed rows as the next version of a manifest.

    Rows spill to 256 local buckets by hash and are sorted a bucket at a time, so memory does not grow with the corpus.

    Args:
        uri: Where the manifest lies or shall lie.
        source: The URI that was listed.
        tables: Rows of schema `listing.LISTED`.

    Raises:
        ValueError: no sample among the rows; the message says what was found instead.
    """
    found = versions(uri)
    version = found[-1] + 1 if found else 1
    left_out: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="afield-index-") as folder:
        buckets = _Buckets(folder)
        for table in tables:
            reasons = table[LEFT_OUT.name]
            left_out.update(
                {str(row["values"]): row["counts"] for row in pc.value_counts(reasons.drop_null()).to_pylist()}
            )
            buckets.add(table.filter(pc.is_null(reasons)).select(schema.MANIFEST.names).cast(schema.MANIFEST))
        buckets.close()
        if not buckets.num_rows:
            seen = ", ".join(f"{count} x {reason}" for reason, count in left_out.most_common(4)) or "an empty folder"
            raise ValueError(
                f"source.uri {source} holds no images ({seen}): give a folder, prefix, glob or tar shards of images"
            )
        parts = [
            _write_part(uri, f"parts/{version:06d}-{i:05d}.parquet", groups) for i, groups in enumerate(buckets.parts())
        ]
    manifest = Manifest(storage.absolute(uri), version, source, tuple(parts), dict(left_out))
    record = {
        "version": version,
        "source": source,
        "num_rows": manifest.num_rows,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "left_out": manifest.left_out,
        "parts": [{"path": part.path, "row_groups": list(part.row_groups)} for part in parts],
    }
    storage.write_bytes(storage.join(uri, "versions", f"{version:06d}.json"), json.dumps(record).encode())
    return manifest


def _write_part(uri: str, name: str, groups: Iterator[pa.Table]) -> Part:
    rows: list[int] = []
    with storage.open_atomic(storage.join(uri, name)) as file, pq.ParquetWriter(file, schema.MANIFEST) as writer:
        for group in groups:
            writer.write_table(group, row_group_size=max(1, group.num_rows))
            rows.append(group.num_rows)
    return Part(name, tuple(rows))


class _Buckets:
    """Rows on local disk, split by the top byte of `sample_id`; members of tar shards apart, a stream of their own."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._writers: dict[str, pa.RecordBatchStreamWriter] = {}
        self.num_rows = 0

    def add(self, table: pa.Table) -> None:
        self.num_rows += table.num_rows
        packed = pc.is_valid(table["member"])
        self._write("packed", table.filter(packed))
        loose = table.filter(pc.invert(packed))
        bucket = (loose[schema.SAMPLE_ID].to_numpy() >> 56) + NUM_BUCKETS // 2
        for key in np.unique(bucket):
            self._write(f"{key:03d}", loose.filter(pa.array(bucket == key)))

    def _write(self, name: str, table: pa.Table) -> None:
        if not table.num_rows:
            return
        if name not in self._writers:
            self._writers[name] = pa.ipc.new_stream(os.path.join(self._folder, name), schema.MANIFEST)
        self._writers[name].write_table(table)

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()

    def parts(self) -> Iterator[Iterator[pa.Table]]:
        """Yield the row groups of one part after another."""
        waiting: list[pa.Table] = []
        for name in sorted(name for name in self._writers if name != "packed"):
            waiting.append(self._read(name).read_all().sort_by(schema.SAMPLE_ID))
            if sum(table.num_rows for table in waiting) >= PART_ROWS:
                yield _split(pa.concat_tables(waiting))
                waiting = []
        if waiting:
            yield _split(pa.concat_tables(waiting))
        if "packed" in self._writers:
            yield self._shards()

    def _read(self, name: str) -> pa.RecordBatchStreamReader:
        return pa.ipc.open_stream(os.path.join(self._folder, name))

    def _shards(self) -> Iterator[pa.Table]:
        """One row group a shard: a shard's members follow each other in the listing."""
        waiting: list[pa.Table] = []
        for batch in self._read("packed"):
            table = pa.Table.from_batches([batch])
            edges = np.flatnonzero(pc.not_equal(table[schema.URI][1:], table[schema.URI][:-1]).to_numpy()) + 1
            for start, stop in zip([0, *edges], [*edges, table.num_rows], strict=True):
                piece = table.slice(start, stop - start)
                if waiting and waiting[-1][schema.URI][0] != piece[schema.URI][0]:
                    yield pa.concat_tables(waiting)
                    waiting = []
                waiting.append(piece)
        if waiting:
            yield pa.concat_tables(waiting)


def _split(table: pa.Table) -> Iterator[pa.Table]:
    for start in range(0, table.num_rows, ROW_GROUP_ROWS):
        yield table.slice(start, ROW_GROUP_ROWS)
