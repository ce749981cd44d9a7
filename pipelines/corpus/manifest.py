"""The manifest: a corpus listed once, as immutable versions of Parquet parts.

<manifest>/parts/000001-3f9ac0de-00000.parquet    rows in hash order, or tar shards in offset order
<manifest>/tombstones/000002-81b2c7aa.parquet     rows of older parts gone so far
<manifest>/left_out/000001-3f9ac0de.parquet       files that are no samples, a quarantine table
<manifest>/curated/000003-5d10b7e2.parquet        samples that curation took out, and why
<manifest>/versions/000001.json                   what makes up a version, written last

A version shares the parts of the one before. A file's name holds the attempt that wrote it, so that
a crash or two indexers at once leave orphans at worst, which nobody reads.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import schema
from pipelines.corpus.changes import POSITION, ROW, ROW_GROUP, TAKEN_OUT, Diff
from pipelines.corpus.entry import EVERYTHING, Selection, lies_in, root_of
from pipelines.storage import uris
from pipelines.storage.parquet_files import open_parquet
from pipelines.storage.retries import StorageError

PLACED = [schema.SAMPLE_ID, schema.URI, schema.MEMBER, schema.CLIP, schema.MEDIA]


@dataclass(frozen=True)
class Part:
    """One Parquet file of a manifest.

    Attributes:
        path: Below the manifest.
        row_groups: Live rows of each of its row groups.
        tombstones: Row group of the version's tombstones that tells its dead rows; None where all
            live.
        dead_rows: Dead rows of each of its row groups; empty where all live.
    """

    path: str
    row_groups: tuple[int, ...]
    tombstones: int | None = None
    dead_rows: tuple[int, ...] = ()

    @property
    def stored_rows(self) -> np.ndarray:
        """Return the rows of each of its row groups as it was written, int64."""
        return np.array(self.row_groups, dtype=np.int64) + np.array(
            self.dead_rows or 0, dtype=np.int64
        )


@dataclass(frozen=True)
class Manifest:
    """One version of a corpus.

    Attributes:
        uri: Where the manifest lies.
        version: Counts from 1.
        source: The URI that was listed.
        parts: The files; those of the version before come first, in its order.
        left_out: Files that are no samples, by reason; the rarest together.
        diff: To the version before.
        tombstones: Path of the dead rows below the manifest, None where there are none.
        left_out_table: Path of the files that are no samples below the manifest, None where there
            are none.
        media: Samples by what they are: image, video, audio.
        selection: What of the source is a sample.
        listed: When the listing began, in ISO format.
        taken_out: Path of the samples that curation took out below the manifest, schema
            `changes.TAKEN_OUT`; None where there are none. They lie in the source, and are dead
            rows here.
        curation: What that curation was asked for and saw; empty where there was none.
        files: The manifest that the parts belong to, where it is another one: of a selection.
    """

    uri: str
    version: int
    source: str
    parts: tuple[Part, ...]
    left_out: dict[str, int] = field(default_factory=dict)
    diff: Diff = field(default_factory=lambda: Diff(0, 0, 0, 0))
    tombstones: str | None = None
    left_out_table: str | None = None
    media: dict[str, int] = field(default_factory=dict)
    selection: Selection = EVERYTHING
    listed: str = ""
    taken_out: str | None = None
    curation: dict[str, Any] = field(default_factory=dict)
    files: str | None = None

    @property
    def home(self) -> str:
        """Return the manifest that the parts belong to, and what is known of their videos."""
        return self.files or self.uri

    @property
    def per_video(self) -> int:
        """Return the samples of each video, one a clip."""
        return self.selection.per_video

    @property
    def num_rows(self) -> int:
        """Return the number of samples of this version."""
        return sum(sum(part.row_groups) for part in self.parts)

    @property
    def columns(self) -> list[str]:
        """Return the columns of its rows."""
        names: list[str] = self._file(0).schema_arrow.names
        return names

    @property
    def num_stored(self) -> int:
        """Return the rows that all parts hold, dead ones included: a bound of `schema.ROW`."""
        return int(self._row_ends[-1][-1])

    @cached_property
    def _row_ends(self) -> list[np.ndarray]:
        """Return for each part behind which row each of its row groups ends.

        Parts are only ever added, and dead rows are counted: a row keeps its number in all later
        versions.
        """
        ends = np.cumsum(np.concatenate([part.stored_rows for part in self.parts]))
        return np.split(ends, np.cumsum([len(part.row_groups) for part in self.parts])[:-1])

    def read_row_group(
        self, part: int, row_group: int, columns: list[str] | None = None
    ) -> pa.Table:
        """Read the live rows of one row group in stored order.

        Args:
            part: Its part.
            row_group: Its number in the part.
            columns: Of `schema.MANIFEST`, by default all; `schema.ROW` comes with them.
        """
        file = self._file(part)
        table = file.read_row_group(row_group, columns=columns)
        self._check_addresses(table)
        last = int(self._row_ends[part][row_group])
        table = table.append_column(schema.ROW, pa.array(np.arange(last - table.num_rows, last)))
        return self._alive(table, part, row_group)

    def _file(self, part: int) -> pq.ParquetFile:
        return _parquet(uris.join(self.home, self.parts[part].path))

    def _check_addresses(self, table: pa.Table) -> None:
        """Refuse rows that name another scheme, host or folder than the source's: no listing wrote
        them.

        Raises:
            StorageError: there is one.
        """
        root = root_of(self.source)
        if schema.URI in table.column_names and not lies_in(root, table):
            raise StorageError(
                self.uri,
                f"names files outside of its source {self.source}: make it anew with jobs.index",
            )

    def row_groups(self) -> Iterator[tuple[int, int, int]]:
        """Yield (part, row group, live rows) in order."""
        for part, entry in enumerate(self.parts):
            for row_group, rows in enumerate(entry.row_groups):
                yield part, row_group, rows

    def places(self) -> Iterator[pa.Table]:
        """Yield the columns `PLACED` and the stored position of all live rows, a row group at a
        time."""
        for part, row_group, rows in self.row_groups():
            if not rows:
                continue
            file = self._file(part)
            table = file.read_row_group(row_group, columns=PLACED)
            row = np.arange(table.num_rows, dtype=np.int32)
            positions = (np.full_like(row, part), np.full_like(row, row_group), row)
            for name, values in zip(POSITION.names, positions, strict=True):
                table = table.append_column(name, pa.array(values))
            yield self._alive(table, part, row_group)

    def dead(self, part: int) -> pa.Table:
        """Read the stored positions of a part's dead rows, schema `changes.POSITION`, in order."""
        row_group = self.parts[part].tombstones
        if row_group is None or self.tombstones is None:
            return POSITION.empty_table()
        return _tombstones(uris.join(self.uri, self.tombstones), row_group)

    def live_rows(self, part: int, row_group: int, num_stored: int) -> np.ndarray:
        """Return which of the stored rows of a row group are live, ascending."""
        rows = np.arange(num_stored)
        if self.parts[part].tombstones is None:
            return rows
        dead = self.dead(part)
        first, last = (
            np.searchsorted(dead[ROW_GROUP].to_numpy(), row_group, side=side)
            for side in ("left", "right")
        )
        return np.delete(rows, dead[ROW].to_numpy()[first:last])

    def _alive(self, table: pa.Table, part: int, row_group: int) -> pa.Table:
        rows = self.live_rows(part, row_group, table.num_rows)
        return table if len(rows) == table.num_rows else table.take(pa.array(rows))

    def read_taken_out(self) -> Iterator[pa.Table]:
        """Yield the samples that curation took out, schema `changes.TAKEN_OUT`, by stored
        position, a table at a time; each is of one part."""
        if self.taken_out:
            file = open_parquet(uris.join(self.uri, self.taken_out))
            for row_group in range(file.num_row_groups):
                yield file.read_row_group(row_group).cast(TAKEN_OUT)

    @property
    def left_out_uri(self) -> str | None:
        """Return where the table of files that are no samples is; None where there are none."""
        return uris.join(self.uri, self.left_out_table) if self.left_out_table else None

    def read_left_out(self) -> Iterator[pa.Table]:
        """Yield the files that are no samples, schema `schema.QUARANTINE`, a table at a time."""
        if self.left_out_uri:
            file = open_parquet(self.left_out_uri)
            for row_group in range(file.num_row_groups):
                yield quarantined(file.read_row_group(row_group))


def quarantined(table: pa.Table) -> pa.Table:
    """Complete a table that was written before members had a column of their own."""
    missing = [name for name in schema.QUARANTINE.names if name not in table.column_names]
    for name in missing:
        kind = schema.QUARANTINE.field(name).type
        table = table.append_column(name, pa.nulls(table.num_rows, kind))
    return table.select(schema.QUARANTINE.names).cast(schema.QUARANTINE)


@lru_cache(maxsize=8)
def _parquet(uri: str) -> pq.ParquetFile:
    return open_parquet(uri)


@lru_cache(maxsize=16)
def _tombstones(uri: str, row_group: int) -> pa.Table:
    return _parquet(uri).read_row_group(row_group).combine_chunks()


def versions(uri: str) -> list[int]:
    """List the manifest's version numbers at a URI, ascending; none where there is no manifest."""
    names = uris.list_names(uris.join(uri, "versions"))
    found = (re.fullmatch(r"(\d{6,})\.json", name) for name in names)
    return sorted(int(name[1]) for name in found if name)


def open_manifest(uri: str, version: int | None = None) -> Manifest:
    """Open a version of a manifest, the newest by default.

    Raises:
        ValueError: there is no manifest, or not that version, or it is one of an earlier format.
    """
    found = versions(uri)
    if not found or (version or found[-1]) not in found:
        raise ValueError(
            f"{uri} holds no manifest{f' version {version}' if version else ''}: make one with"
            " jobs.index"
        )
    record = json.loads(uris.read_bytes(record_uri(uri, version or found[-1])))
    if any("dead_rows" not in part for part in record["parts"]):
        raise ValueError(
            f"{uri} is a manifest of an earlier format: list {record['source']} anew with"
            " jobs.index"
        )
    parts = tuple(
        Part(part["path"], tuple(part["row_groups"]), part["tombstones"], tuple(part["dead_rows"]))
        for part in record["parts"]
    )
    return Manifest(
        uris.absolute(uri),
        record["version"],
        record["source"],
        parts,
        record["left_out"],
        Diff(**record["diff"]),
        record["tombstones"],
        record["left_out_table"],
        record["media"],
        Selection(
            record["per_video"],
            tuple(record.get("members", ())),
            record.get("any_name", False),
            medium=record.get("medium", "pictures"),
            text_columns=tuple(record.get("text_columns", ())),
        ),
        record.get("listed", record["created"]),
        record.get("taken_out"),
        record.get("curation", {}),
        record.get("files"),
    )


def record_uri(uri: str, version: int) -> str:
    return uris.join(uri, "versions", f"{version:06d}.json")
