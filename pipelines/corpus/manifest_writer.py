"""Writes a version of a manifest: parts of new rows, tombstones for those that went, then the
record of both."""

import json
import os
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from itertools import chain, pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines import schema
from pipelines.corpus.changes import POSITION, ROW_GROUP, TAKEN_OUT, Changes
from pipelines.corpus.entry import EVERYTHING, Selection
from pipelines.corpus.left_out import LeftOut, most_frequent, told
from pipelines.corpus.listed_rows import LEFT_OUT
from pipelines.corpus.manifest import Manifest, Part, open_manifest, record_uri, versions
from pipelines.storage import uris
from pipelines.storage.copies import put_file

# At most; a row group holds no more than one shard. A task reads about a row group at once, and
# from a shard on S3 the fewer requests the better: at 113 kB a member it gives a fifth more
# images/s than row groups of 560 MB.
ROW_GROUP_ROWS = 8192


SHARD_GROUP_BYTES = 64 << 20


PART_ROWS = 1 << 20


TAKEN_ROWS = 1 << 16  # of a row group of samples that curation took out


class MostlyGone(ValueError):
    """Most of a corpus is no longer there; whoever has it listed knows how to accept that."""


def write_manifest(
    uri: str,
    source: str,
    tables: Iterable[pa.Table],
    selection: Selection = EVERYTHING,
    *,
    max_gone_fraction: float = 1.0,
) -> Manifest:
    """Write listed rows as the next version of a manifest: new parts for new rows, tombstones for
    those that went.

    Memory does not grow with the corpus: rows are compared with the version before on local disk,
    bucket by bucket.

    Args:
        uri: Where the manifest lies or shall lie.
        source: The URI that was listed, the same for all versions.
        tables: Rows of schema `listed_rows.LISTED`.
        selection: What of the source is among them.
        max_gone_fraction: No version is made where more of the samples of the one before are gone,
            unless another selection was asked for.

    Returns:
        The new version; the newest there is where the samples are those that it has.

    Raises:
        MostlyGone: more samples went than `max_gone_fraction` allows.
        ValueError: no sample among the rows, and the message says what was found instead; the
            manifest of another source; or somebody else wrote the next version meanwhile.
    """
    before = open_manifest(uri) if versions(uri) else None
    check_source(before, source)
    version = before.version + 1 if before else 1
    listed = datetime.now(UTC).isoformat()
    attempt = f"{version:06d}-{uuid.uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory(prefix="afield-index-") as folder:
        changes = Changes(folder)
        with LeftOut(os.path.join(folder, "left_out"), run=attempt) as left_out:
            media = _take(tables, changes, left_out)
        _check_found(source, changes, left_out, selection)
        blank = Manifest(
            uris.absolute(uri),
            version,
            source,
            parts=(),
            left_out=most_frequent(left_out.counts),
            media=media,
            selection=selection,
            listed=listed,
        )
        manifest = _completed(blank, before, changes, attempt, max_gone_fraction)
        if manifest is before:
            return manifest
        if left_out.counts:
            path = _upload(left_out.path, uri, f"left_out/{attempt}.parquet")
            manifest = replace(manifest, left_out_table=path)
    commit(manifest)
    return manifest


def _completed(
    blank: Manifest,
    before: Manifest | None,
    changes: Changes,
    attempt: str,
    max_gone_fraction: float,
) -> Manifest:
    """Write the parts and tombstones of a version; returns the one before where nothing changed."""
    for rows in before.places() if before else ():
        changes.add_stored(rows)
    for rows in before.read_taken_out() if before else ():
        changes.add_stored(rows, live=False)
    added = _write_parts(blank.uri, attempt, _row_groups(changes.added()))
    diff = changes.diff()
    if before and before.selection == blank.selection:
        if not (diff.added or diff.removed or diff.changed):
            return before
        _check_gone(before, diff.removed, max_gone_fraction)
    if before is None:
        return replace(blank, parts=tuple(added), diff=diff)
    parts, tombstones = _bury(blank.uri, attempt, before, changes)
    blank = _still_taken_out(blank, before, attempt, changes.lost)
    return replace(blank, parts=(*parts, *added), diff=diff, tombstones=tombstones)


def _still_taken_out(blank: Manifest, before: Manifest, attempt: str, lost: np.ndarray) -> Manifest:
    """Hand on what curation took out, without what is no longer listed, and count without it."""
    if before.taken_out is None:
        return blank
    media = Counter(blank.media)
    for table in _without(before.read_taken_out(), lost):
        media.subtract(table[schema.MEDIA].to_pylist())
    path: str | None = before.taken_out
    if len(lost):
        path = write_taken_out(blank.uri, attempt, _without(before.read_taken_out(), lost))
    left = {name: count for name, count in media.items() if count}
    return replace(blank, media=left, taken_out=path, curation=before.curation)


def _without(tables: Iterator[pa.Table], lost: np.ndarray) -> Iterator[pa.Table]:
    for table in tables:
        yield table.filter(pc.invert(pc.is_in(table[schema.SAMPLE_ID], pa.array(lost))))


def write_taken_out(uri: str, attempt: str, tables: Iterable[pa.Table]) -> str | None:
    """Write the samples that curation took out, those of a part together; returns the path below
    the manifest, None where there are none."""
    filled = (table for table in tables if table.num_rows)
    first = next(filled, None)
    if first is None:
        return None
    path = f"curated/{attempt}.parquet"
    with (
        uris.open_atomic(uris.join(uri, path)) as file,
        pq.ParquetWriter(file, TAKEN_OUT) as writer,
    ):
        for table in chain([first], filled):
            for some in _cut(table, TAKEN_ROWS):
                writer.write_table(some, row_group_size=some.num_rows)
    return path


def _check_found(source: str, changes: Changes, left_out: LeftOut, selection: Selection) -> None:
    """Refuse a source without samples.

    Raises:
        ValueError: there are none; the message says what was found instead.
    """
    if not changes.num_listed:
        seen = told(left_out.counts, 4) or "an empty folder"
        raise ValueError(
            f"source.uri {source} holds no {_named(selection)} ({seen}): "
            f"give a folder, prefix, glob or tar shards of {_named(selection)}{_hint(selection)}"
        )


def _check_gone(before: Manifest, gone: int, most: float) -> None:
    """Refuse to take most of a corpus for deleted: a mount or a prefix may be missing.

    Raises:
        MostlyGone: more than the given fraction is gone.
    """
    if gone > most * before.num_rows:
        raise MostlyGone(
            f"source.uri {before.source}: {gone:,} of {before.num_rows:,} samples are gone since"
            f" version {before.version} of {before.uri}, which stays as it is: check that"
            " everything is mounted and that all prefixes are there"
        )


def _named(selection: Selection) -> str:
    return "images" if selection.medium == "pictures" else selection.medium


def _hint(selection: Selection) -> str:
    return "" if selection.any_name else ", or set source.any_name=true where names do not say so"


def _take(tables: Iterable[pa.Table], changes: Changes, left_out: LeftOut) -> dict[str, int]:
    """Spill a listing; gives its samples by media."""
    media: Counter[str] = Counter()
    for table in tables:
        left_out.add(table)
        samples = table.filter(pc.is_null(table[LEFT_OUT.name])).select(schema.MANIFEST.names)
        media.update(samples[schema.MEDIA].to_pylist())
        changes.add_listed(samples.cast(schema.MANIFEST))
    return dict(media)


def check_source(before: Manifest | None, source: str) -> None:
    """Refuse to list another source into a manifest: everything in it would count as removed.

    Raises:
        ValueError: it is another one.
    """
    if before and before.source.rstrip("/") != source.rstrip("/"):
        raise ValueError(
            f"out {before.uri} is the manifest of {before.source}, not of {source}: choose"
            " another out"
        )


def _row_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Cut buckets to row groups: loose rows filled up over several buckets, the members of each
    shard by themselves."""
    waiting = schema.MANIFEST.empty_table()
    for table in tables:
        packed = pc.is_valid(table["member"])
        yield from _shards(table.filter(packed))
        waiting = pa.concat_tables([waiting, table.filter(pc.invert(packed))])
        whole = waiting.num_rows // ROW_GROUP_ROWS * ROW_GROUP_ROWS
        yield from _cut(waiting.slice(0, whole), ROW_GROUP_ROWS)
        waiting = waiting.slice(whole)
    yield from _cut(waiting, ROW_GROUP_ROWS)


def _shards(members: pa.Table) -> Iterator[pa.Table]:
    members = members.sort_by(
        [(schema.URI, "ascending"), (schema.OFFSET, "ascending")]
    ).combine_chunks()
    shards = members[schema.URI]
    edges = np.flatnonzero(pc.not_equal(shards[1:], shards[:-1]).to_numpy()) + 1
    for start, stop in pairwise([0, *edges.tolist(), members.num_rows]):
        shard = members.slice(start, stop - start)
        for group in cut_by_bytes(shard, SHARD_GROUP_BYTES):
            yield from _cut(group, ROW_GROUP_ROWS)


def cut_by_bytes(rows: pa.Table, size: int) -> Iterator[pa.Table]:
    """Cut manifest rows, in order, where the bytes they name reach each multiple of `size`."""
    length = rows[schema.LENGTH].to_numpy()
    full = np.flatnonzero(np.diff((np.cumsum(length) - length) // size)) + 1
    yield from (
        rows.slice(start, stop - start)
        for start, stop in pairwise([0, *full.tolist(), rows.num_rows])
    )


def _cut(table: pa.Table, rows: int) -> Iterator[pa.Table]:
    yield from (table.slice(start, rows) for start in range(0, table.num_rows, rows))


def _write_parts(uri: str, attempt: str, groups: Iterator[pa.Table]) -> list[Part]:
    parts: list[Part] = []
    while (first := next(groups, None)) is not None:
        parts.append(
            _write_part(uri, f"parts/{attempt}-{len(parts):05d}.parquet", chain([first], groups))
        )
    return parts


def _write_part(uri: str, path: str, groups: Iterator[pa.Table]) -> Part:
    """Write row groups until the part is full."""
    rows: list[int] = []
    with (
        uris.open_atomic(uris.join(uri, path)) as file,
        pq.ParquetWriter(file, schema.MANIFEST) as writer,
    ):
        for group in groups:
            writer.write_table(group, row_group_size=group.num_rows)
            rows.append(group.num_rows)
            if sum(rows) >= PART_ROWS:
                break
    return Part(path, tuple(rows))


def _bury(
    uri: str, attempt: str, before: Manifest, changes: Changes
) -> tuple[tuple[Part, ...], str | None]:
    """Write the tombstones of all dead rows; gives the older parts with what lives on in them, and
    the file's path."""
    for part in range(len(before.parts)):
        changes.add_dead(before.dead(part))
    if not changes.num_dead:
        return before.parts, None
    path = f"tombstones/{attempt}.parquet"
    return write_tombstones(uri, path, before.parts, changes.dead()), path


def write_tombstones(
    uri: str, path: str, parts: tuple[Part, ...], dead: Iterable[tuple[int, pa.Table]]
) -> tuple[Part, ...]:
    """Write which stored rows are dead; gives the parts with what then lives in them.

    Args:
        uri: The manifest.
        path: Of the tombstones below it.
        parts: As they were, with whatever dead rows.
        dead: Each part that has dead rows, with their positions in order.
    """
    buried = [Part(part.path, tuple(part.stored_rows.tolist())) for part in parts]
    with uris.open_atomic(uris.join(uri, path)) as file, pq.ParquetWriter(file, POSITION) as writer:
        for number, (index, positions) in enumerate(dead):
            writer.write_table(positions, row_group_size=positions.num_rows)
            old = buried[index]
            gone = _per_row_group(positions, old)
            live = old.stored_rows - gone
            buried[index] = Part(old.path, tuple(live.tolist()), number, tuple(gone.tolist()))
    return tuple(buried)


def _per_row_group(positions: pa.Table, part: Part) -> np.ndarray:
    return np.bincount(positions[ROW_GROUP].to_numpy(), minlength=len(part.row_groups))


def _upload(local: str, uri: str, path: str) -> str:
    put_file(local, uris.join(uri, path))
    return path


def commit(manifest: Manifest) -> None:
    """Write the record that makes a version.

    Raises:
        ValueError: somebody else wrote that version meanwhile.
    """
    record = {
        "version": manifest.version,
        "source": manifest.source,
        "num_rows": manifest.num_rows,
        "listed": manifest.listed,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "left_out": manifest.left_out,
        "media": manifest.media,
        **asdict(manifest.selection),
        "diff": asdict(manifest.diff),
        "tombstones": manifest.tombstones,
        "left_out_table": manifest.left_out_table,
        "taken_out": manifest.taken_out,
        "curation": manifest.curation,
        "files": manifest.files,
        "parts": [asdict(part) for part in manifest.parts],
    }
    place = record_uri(manifest.uri, manifest.version)
    if not uris.create(place, json.dumps(record).encode()):
        raise ValueError(
            f"out {manifest.uri} got its version {manifest.version} from somebody else meanwhile,"
            " and it stands: run the same command again to go on from it"
        )
