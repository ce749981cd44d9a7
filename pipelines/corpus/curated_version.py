"""Writes a version of a manifest without some of the samples that are listed: curation.

The rows that go are dead rows of the version, as those of deleted files are, so that whatever reads
a manifest reads this one too. Beside them stands why each went (schema `changes.TAKEN_OUT`), and
they stay listed: a later version can bring each back at the row that it had.
"""

import os
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import schema
from pipelines.corpus.changes import PART, POSITION, ROW, ROW_GROUP, TAKEN_OUT, Diff
from pipelines.corpus.manifest import PLACED, Manifest, Part, open_manifest, versions
from pipelines.corpus.manifest_writer import commit, write_taken_out, write_tombstones
from pipelines.storage import uris
from pipelines.storage.spill import NUM_BUCKETS, Spill, bucket_of

# What is decided of each sample that has an embedding; no reason: it stays.
DECIDED = pa.schema(
    [
        pa.field(schema.SAMPLE_ID, pa.int64()),
        *(TAKEN_OUT.field(name) for name in ("cluster", "kept", "cosine")),
        pa.field(schema.REASON, pa.string()),
    ]
)
_WAS = "was"
_LISTED = pa.schema(
    [
        *(TAKEN_OUT.field(name) for name in TAKEN_OUT.names if name != schema.REASON),
        pa.field(_WAS, pa.string()),  # the reason for which it is out now
    ]
)


def whole(manifest: Manifest, path: str) -> Manifest:
    """Return a version with all that curation took out brought back, which is not committed.

    Args:
        manifest: The version.
        path: Of its tombstones below the manifest, written where they differ.
    """
    if manifest.taken_out is None:
        return manifest
    with tempfile.TemporaryDirectory(prefix="afield-curate-") as folder:
        out = Spill(os.path.join(folder, "out"), POSITION)
        for table in manifest.read_taken_out():
            out.add(table.select(POSITION.names).cast(POSITION), _by_part(table))
        parts, tombstones = _bury(
            manifest,
            manifest.uri,
            path,
            lambda part: _minus(manifest.dead(part), _of_part(out, part)),
        )
    return replace(
        manifest, parts=parts, tombstones=tombstones, taken_out=None, media=_all_media(manifest)
    )


def _all_media(manifest: Manifest) -> dict[str, int]:
    media = Counter(manifest.media)
    for table in manifest.read_taken_out():
        media.update(table[schema.MEDIA].to_pylist())
    return dict(media)


def only(manifest: Manifest, sample_ids: np.ndarray, path: str) -> Manifest:
    """Return a version with some of its samples alone, which is not committed.

    Args:
        manifest: The version.
        sample_ids: (n,) int64, ascending.
        path: Of its tombstones below the manifest, written here.
    """
    return _chosen(
        manifest,
        lambda table: _among(table[schema.SAMPLE_ID].to_numpy(), sample_ids),
        manifest.uri,
        path,
    )


def write_selection(
    manifest: Manifest, out: str, chooses: Callable[[pa.Table], np.ndarray], record: dict[str, Any]
) -> Manifest:
    """Write some samples of a version as a manifest of their own, which shares its files.

    Memory does not grow with the corpus. Rows keep their numbers.

    Args:
        manifest: The version.
        out: Where the selection shall lie; one that is there already is opened.
        chooses: Tells of rows of `Manifest.places` which are taken, (n,) bool.
        record: What was asked for.

    Raises:
        ValueError: nothing is chosen.
    """
    if versions(out):
        return open_manifest(out)
    media = Counter[str]()

    def counted(table: pa.Table) -> np.ndarray:
        taken = chooses(table)
        media.update(table[schema.MEDIA].filter(pa.array(taken)).to_pylist())
        return taken

    path = f"tombstones/{manifest.version:06d}-{uuid.uuid4().hex[:8]}.parquet"
    made = _chosen(manifest, counted, uris.absolute(out), path)
    if not made.num_rows:
        raise ValueError(f"nothing of {manifest.uri} is left to train on")
    made = replace(
        made,
        uri=uris.absolute(out),
        files=manifest.home,
        media=dict(media),
        diff=Diff(0, manifest.num_rows - made.num_rows, 0, made.num_rows),
        left_out={},
        left_out_table=None,
        taken_out=None,
        curation=record,
    )
    commit(made)
    return made


def _chosen(
    manifest: Manifest, chooses: Callable[[pa.Table], np.ndarray], place: str, path: str
) -> Manifest:
    """Return a version without the samples that are not chosen; its tombstones lie at `path` below
    `place`."""
    with tempfile.TemporaryDirectory(prefix="afield-curate-") as folder:
        dead = Spill(os.path.join(folder, "dead"), POSITION)
        for table in manifest.places():
            others = ~chooses(table)
            gone = table.filter(pa.array(others)).select(POSITION.names).cast(POSITION)
            dead.add(gone, _by_part(gone))

        parts, tombstones = _bury(
            manifest, place, path, lambda part: _plus(manifest.dead(part), _of_part(dead, part))
        )
    return replace(manifest, parts=parts, tombstones=tombstones)


def _among(values: np.ndarray, ascending: np.ndarray) -> np.ndarray:
    """Tell which values are among others."""
    if not len(ascending):
        return np.zeros(len(values), bool)
    place = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    found: np.ndarray = ascending[place] == values
    return found


@dataclass(frozen=True)
class Counts:
    """What curation did to the samples that are listed.

    Attributes:
        listed: All of them.
        reasons: Those taken out, by reason.
        unjudged: Those without an embedding, left as they were.
    """

    listed: int
    reasons: dict[str, int]
    unjudged: int


def write_curated(
    before: Manifest, decided: Iterable[pa.Table], curation: dict[str, Any]
) -> tuple[Manifest, Counts]:
    """Write the next version of a manifest: all that is listed, without what is decided to go.

    Memory does not grow with the corpus: rows and decisions are joined on local disk, bucket by
    bucket. A sample that nothing is decided of stays in or out as it was.

    Args:
        before: The newest version.
        decided: Tables of schema `DECIDED`.
        curation: What was asked for, for the record.

    Raises:
        ValueError: nothing would be left; or somebody else wrote the next version meanwhile.
    """
    version = before.version + 1
    attempt = f"{version:06d}-{uuid.uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory(prefix="afield-curate-") as folder:
        joined = _Joined(folder)
        joined.take(before, decided)
        taken = joined.taken
        if not joined.live:
            raise ValueError(
                f"nothing of {before.uri} would be left: all {joined.listed:,} samples would go"
            )
        path = write_taken_out(before.uri, attempt, _in_order(taken, len(before.parts)))
        parts, tombstones = _bury(
            before,
            before.uri,
            f"tombstones/{attempt}.parquet",
            lambda part: _plus(
                _minus(before.dead(part), _of_part(joined.back, part)),
                _of_part(taken, part).select(POSITION.names),
            ),
        )
        made = replace(
            before,
            version=version,
            parts=parts,
            tombstones=tombstones,
            taken_out=path,
            curation=curation,
            media={name: count for name, count in joined.media.items() if count},
            diff=Diff(joined.added, joined.removed, 0, joined.live - joined.added),
        )
    commit(made)
    return made, Counts(joined.listed, dict(joined.reasons), joined.unjudged)


def counted(before: Manifest, decided: Iterable[pa.Table]) -> Counts:
    """Count what `write_curated` counts, and write nothing."""
    with tempfile.TemporaryDirectory(prefix="afield-curate-") as folder:
        joined = _Joined(folder)
        joined.take(before, decided)
        return Counts(joined.listed, dict(joined.reasons), joined.unjudged)


def stay(table: pa.Table) -> pa.Table:
    """Decide that samples come back.

    Args:
        table: Rows of `Manifest.read_taken_out`.
    """
    reason = pa.nulls(table.num_rows, pa.string())
    place = table.schema.get_field_index(schema.REASON)
    return table.set_column(place, schema.REASON, reason).select(DECIDED.names).cast(DECIDED)


class _Joined:
    """Decisions beside the rows that they are about.

    Args:
        folder: A local folder.

    Attributes:
        taken: Rows that are out of the new version, schema `TAKEN_OUT`, by part.
        back: Positions of those that were out of the one before, by part.
        media: Samples of the new version by what they are.
        reasons: Rows of `taken` by reason.
        live, listed, added, removed, unjudged: Counts of rows.
    """

    def __init__(self, folder: str) -> None:
        self._listed = Spill(os.path.join(folder, "listed"), _LISTED)
        self._decided = Spill(os.path.join(folder, "decided"), DECIDED)
        self.taken = Spill(os.path.join(folder, "taken"), TAKEN_OUT)
        self.back = Spill(os.path.join(folder, "back"), POSITION)
        self.media = Counter[str]()
        self.reasons = Counter[str]()
        self.live = self.listed = self.added = self.removed = self.unjudged = 0

    def take(self, before: Manifest, decided: Iterable[pa.Table]) -> None:
        """Join all rows with all decisions."""
        for table in before.places():
            self._listed.add(_listed_row(table), bucket_of(table[schema.SAMPLE_ID].to_numpy()))
        for table in before.read_taken_out():
            self._listed.add(_listed_row(table), bucket_of(table[schema.SAMPLE_ID].to_numpy()))
            self.back.add(table.select(POSITION.names).cast(POSITION), _by_part(table))
        for table in decided:
            self._decided.add(table, bucket_of(table[schema.SAMPLE_ID].to_numpy()))
        for bucket in range(NUM_BUCKETS):
            self._join(self._listed.read(bucket), self._decided.read(bucket))

    def _join(self, listed: pa.Table, decided: pa.Table) -> None:
        order = pc.sort_indices(decided[schema.SAMPLE_ID])
        decided = decided.take(order).combine_chunks()
        ids = listed[schema.SAMPLE_ID].to_numpy()
        known = decided[schema.SAMPLE_ID].to_numpy()
        judged = _among(ids, known)
        place = pa.array(np.searchsorted(known, ids), mask=~judged)
        found = decided.take(place)
        was = listed[_WAS]
        chosen = pa.array(judged)
        columns = {
            name: pc.if_else(chosen, found[name], listed[name])
            for name in ("cluster", "kept", "cosine")
        }
        reason = pc.if_else(chosen, found[schema.REASON], was)
        columns[schema.REASON] = reason
        columns |= {name: listed[name] for name in (*PLACED, *POSITION.names)}
        rows = pa.table({name: columns[name] for name in TAKEN_OUT.names})
        out = pc.is_valid(reason)
        gone = rows.filter(out).cast(TAKEN_OUT)
        self.taken.add(gone, _by_part(gone))
        self._count(listed, pc.is_valid(was).to_numpy(), out.to_numpy(), int((~judged).sum()))
        self.reasons.update(gone[schema.REASON].to_pylist())

    def _count(self, listed: pa.Table, was: np.ndarray, out: np.ndarray, unjudged: int) -> None:
        self.listed += listed.num_rows
        self.live += int((~out).sum())
        self.added += int((was & ~out).sum())
        self.removed += int((~was & out).sum())
        self.unjudged += unjudged
        self.media.update(listed[schema.MEDIA].filter(pa.array(~out)).to_pylist())


def _listed_row(table: pa.Table) -> pa.Table:
    """Complete rows of a manifest, or rows that are out, to schema `_LISTED`."""
    if schema.REASON in table.column_names:
        columns = {_WAS: table[schema.REASON]}
    else:
        columns = {_WAS: pa.nulls(table.num_rows, pa.string())}
    for name in _LISTED.names[:-1]:
        there = name in table.column_names
        kind = _LISTED.field(name).type
        columns[name] = table[name] if there else pa.nulls(table.num_rows, kind)
    return pa.table({name: columns[name] for name in _LISTED.names}).cast(_LISTED)


def _by_part(table: pa.Table) -> np.ndarray:
    bucket: np.ndarray = table[PART].to_numpy() % NUM_BUCKETS
    return bucket


def _of_part(spill: Spill, part: int) -> pa.Table:
    """Read the rows of one part, by position."""
    table = spill.read(part % NUM_BUCKETS)
    rows = table.filter(pc.equal(table[PART], pa.scalar(part, pa.int32())))
    return rows.sort_by([(ROW_GROUP, "ascending"), (ROW, "ascending")])


def _in_order(taken: Spill, num_parts: int) -> Iterator[pa.Table]:
    return (_of_part(taken, part) for part in range(num_parts))


def _bury(
    manifest: Manifest, place: str, path: str, dead_of: Callable[[int], pa.Table]
) -> tuple[tuple[Part, ...], str | None]:
    """Write the tombstones of a version; gives the parts with what lives on in them, and the
    tombstones' path, None where nothing is dead.

    Args:
        manifest: Whose parts.
        place: Below which they are written.
        path: Where, below that.
        dead_of: Gives the positions of a part's dead rows, in order.
    """
    counted = list[int]()

    def dead() -> Iterator[tuple[int, pa.Table]]:
        for part in range(len(manifest.parts)):
            rows = dead_of(part)
            if rows.num_rows:
                counted.append(rows.num_rows)
                yield part, rows

    parts = write_tombstones(place, path, manifest.parts, dead())
    return parts, path if counted else None


def _keys(positions: pa.Table) -> np.ndarray:
    rows = positions[ROW].to_numpy().astype(np.int64)
    keys: np.ndarray = (positions[ROW_GROUP].to_numpy().astype(np.int64) << 32) + rows
    return keys


def _minus(positions: pa.Table, others: pa.Table) -> pa.Table:
    """Leave positions of one part out of others of it."""
    stays = ~np.isin(_keys(positions), _keys(others))
    return positions.filter(pa.array(stays))


def _plus(positions: pa.Table, others: pa.Table) -> pa.Table:
    """Join positions of one part, in order, each once."""
    both = pa.concat_tables([positions.cast(POSITION), others.cast(POSITION)])
    _, first = np.unique(_keys(both), return_index=True)
    return both.take(pa.array(first))
