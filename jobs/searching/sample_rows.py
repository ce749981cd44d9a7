"""Reads the samples of a search where they lie, in this process: for their pictures, and to embed
them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import schema
from pipelines.corpus.entry import Selection
from pipelines.corpus.file_kinds import Medium
from pipelines.corpus.listed_rows import LEFT_OUT, LISTED, MESSAGE, rows_of
from pipelines.corpus.listing import look_up
from pipelines.corpus.manifest import Manifest
from pipelines.media.clips import Sampling
from pipelines.media.contract import REASONS, Limits
from pipelines.samples.rows_of_numbers import Series
from pipelines.stream.ingest import Ingest, run_items
from pipelines.stream.orders import Listed
from pipelines.stream.shapes import Columns, Shape

MIDDLE_FRAME = Sampling()


@dataclass(frozen=True)
class Sample:
    """Which picture: a file, a member of a shard, or a clip of a video."""

    uri: str
    member: str | None = None
    clip: int | None = None

    @property
    def name(self) -> str:
        """Return its file name, without folders."""
        return (self.member or self.uri).rpartition("/")[2]


@dataclass(frozen=True)
class Read:
    """What was read of some samples.

    Attributes:
        columns: As their shape makes them, a row a sample.
        problems: Why each could not be read; empty where it could.
    """

    columns: Columns
    problems: list[str]


def read(
    samples: Sequence[Sample],
    shape: Shape,
    limits: Limits,
    *,
    manifest: Manifest | None = None,
    sampling: Sampling = MIDDLE_FRAME,
    series: Series | None = None,
) -> Read:
    """Fetch and decode samples in this process.

    Args:
        samples: Which.
        shape: What to make of them.
        limits: What they may cost.
        manifest: Where members of shards are looked up first; else in the shards themselves.
        sampling: What is taken of videos.
        series: How samples are read that are rows of numbers; None: they are pictures.
    """
    located = locate(samples, manifest, "pictures" if series is None else "audio")
    rows = pa.Table.from_pylist(located, schema=LISTED)
    problems = [row[LEFT_OUT.name] or "" for row in located]
    there = pa.array([not problem for problem in problems], pa.bool_())
    found = rows.filter(there).select(schema.MANIFEST.names)
    work = Ingest(
        order=Listed(found),
        shape=shape,
        block_rows=max(1, found.num_rows),
        limits=limits,
        quarantine=None,
        run="search",
        sampling=sampling,
        series=series,
    )
    columns = shape.empty(len(samples))
    if not found.num_rows:
        return Read(columns, problems)
    items = pa.table({"start": [0], "stop": [found.num_rows]})
    (block,) = run_items(items, ingest=work)
    where = np.flatnonzero(there.to_numpy(zero_copy_only=False))
    for name, column in columns.items():
        column[where] = block[name]
    for row, reason in zip(where.tolist(), block[schema.REASON].tolist(), strict=True):
        problems[row] = REASONS[reason - 1] if reason else ""
    return Read(columns, problems)


Place = tuple[str, str | None]
Row = dict[str, Any]


def locate(
    samples: Sequence[Sample], manifest: Manifest | None, medium: Medium = "pictures"
) -> list[Row]:
    """Look samples up, of which a file that is in no manifest is one of a medium.

    Returns:
        A row of schema `LISTED` a sample, in order; `left_out` says why there is none.
    """
    found = _listed(samples, manifest) if manifest else {}
    for uri in {sample.uri for sample in samples} - {uri for uri, _ in found}:
        found |= _looked_up(uri, medium)
    return [_row(sample, found) for sample in samples]


def _row(sample: Sample, found: dict[Place, Row]) -> Row:
    row = found.get((sample.uri, sample.member))
    if row is None:
        gone = dict.fromkeys(LISTED.names) | {LEFT_OUT.name: "missing"}
        return gone | {schema.URI: sample.uri, schema.MEMBER: sample.member}
    return row | {schema.CLIP: sample.clip}


def _listed(samples: Sequence[Sample], manifest: Manifest) -> dict[Place, Row]:
    """Find the members of shards in a manifest: a shard's own headers are many requests."""
    wanted = {(sample.uri, sample.member) for sample in samples if sample.member is not None}
    uris_wanted = pa.array({uri for uri, _ in wanted}, pa.string())
    found: dict[Place, Row] = {}
    for part, row_group, _ in manifest.row_groups():
        if len(found) == len(wanted):
            break
        table = manifest.read_row_group(part, row_group)
        hits = table.filter(pc.is_in(table[schema.URI], value_set=uris_wanted))
        for row in hits.to_pylist():
            if (row[schema.URI], row[schema.MEMBER]) in wanted:
                nothing = {LEFT_OUT.name: None, MESSAGE.name: None}
                found[row[schema.URI], row[schema.MEMBER]] = row | nothing
    return found


def _looked_up(uri: str, medium: Medium) -> dict[Place, Row]:
    """List a file, or all members of a shard."""
    try:
        entry = look_up(uri)
    except (ValueError, FileNotFoundError, NotADirectoryError, StopIteration):
        return {}
    if entry.uri != uri:  # a folder
        return {}
    rows = rows_of([entry], Selection(any_name=True, medium=medium))
    return {(uri, row[schema.MEMBER]): row for row in rows}
