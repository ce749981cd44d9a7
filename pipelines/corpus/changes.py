"""What a new listing of a corpus adds to the version before and takes from it, compared a bucket at
a time."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import schema
from pipelines.storage.spill import NUM_BUCKETS, Spill, bucket_of

PART = "part"
ROW_GROUP = "row_group"
ROW = "row"
# of a stored row
POSITION = pa.schema([(PART, pa.int32()), (ROW_GROUP, pa.int32()), (ROW, pa.int32())])
# hash of uri, member and clip: the same for all contents that lay there
PLACE = pa.field("place", pa.int64())
# samples that curation took out, and why
TAKEN_OUT = pa.schema(
    [
        pa.field(schema.SAMPLE_ID, pa.int64(), nullable=False),
        pa.field(schema.URI, pa.string(), nullable=False),
        pa.field(schema.MEMBER, pa.string()),
        pa.field(schema.CLIP, pa.int32()),
        pa.field(schema.MEDIA, pa.string(), nullable=False),
        pa.field(schema.REASON, pa.string(), nullable=False),
        pa.field("cluster", pa.int32()),
        pa.field("kept", pa.int64()),  # sample id of the duplicate that stays; null: it was none
        pa.field("cosine", pa.float32()),  # with that, its captions or the centre
        *(pa.field(field.name, field.type, nullable=False) for field in POSITION),
    ]
)
_LIVE = pa.field("live", pa.bool_())
_OLD = pa.schema([pa.field(schema.SAMPLE_ID, pa.int64()), PLACE, *POSITION, _LIVE])
_MOVED = pa.schema([PLACE, pa.field("is_new", pa.bool_())])


@dataclass(frozen=True)
class Diff:
    """Samples by what happened to them since the version before.

    Attributes:
        added: At places where there was none.
        removed: Whose place is empty.
        changed: Replaced at the same place by other content.
        kept: Of both versions.
    """

    added: int
    removed: int
    changed: int
    kept: int

    def __str__(self) -> str:
        return (
            f"{self.added:,} added, {self.removed:,} removed, {self.changed:,} changed,"
            f" {self.kept:,} kept"
        )


class Changes:
    """Collects the rows of a listing and of the version before, then tells them apart.

    Memory does not grow with the corpus: both sides spill to buckets by hash, the members of a
    shard to the same one.

    Args:
        folder: A local folder for both.
    """

    def __init__(self, folder: str) -> None:
        self._new = Spill(os.path.join(folder, "new"), schema.MANIFEST)
        self._old = Spill(os.path.join(folder, "old"), _OLD)
        self._moved = Spill(os.path.join(folder, "moved"), _MOVED)
        self._dead = Spill(os.path.join(folder, "dead"), POSITION)
        self._lost = list[np.ndarray]()
        self._fresh = self._kept = 0

    @property
    def num_listed(self) -> int:
        """Return the number of rows of the listing."""
        return self._new.num_rows

    @property
    def num_dead(self) -> int:
        """Return the number of rows that are gone for good."""
        return self._dead.num_rows

    @property
    def lost(self) -> np.ndarray:
        """Return the ids of samples that curation took out and that are no longer listed, (n,)
        int64."""
        return np.concatenate([np.empty(0, np.int64), *self._lost])

    def add_listed(self, table: pa.Table) -> None:
        """Take rows of the listing, schema `schema.MANIFEST`."""
        self._new.add(table, _bucket(table))

    def add_stored(self, table: pa.Table, *, live: bool = True) -> None:
        """Take rows of the version before: `sample_id`, `uri`, `member`, `clip` and their
        `POSITION`.

        Args:
            table: The rows.
            live: Whether they are samples of it; else curation took them out: they stay out for
                as long as they are listed.
        """
        placed = table.append_column(PLACE, pa.array(_place(table)))
        placed = placed.append_column(_LIVE, pa.repeat(pa.scalar(live), table.num_rows))
        self._old.add(placed.select(_OLD.names).cast(_OLD), _bucket(table))

    def add_dead(self, positions: pa.Table) -> None:
        """Take positions of rows that are gone for good."""
        self._dead.add(positions, positions[PART].to_numpy() % NUM_BUCKETS)

    def added(self) -> Iterator[pa.Table]:
        """Yield the rows that the version before lacks, a bucket at a time and each once.

        Loose rows come in hash order, within a bucket and from bucket to bucket; the members of a
        shard are in one bucket. `diff` and `dead` are complete after the last.
        """
        for bucket in range(NUM_BUCKETS):
            new = _distinct(self._new.read(bucket))
            old = self._old.read(bucket)
            if not new.num_rows and not old.num_rows:
                continue
            new_ids, old_ids = (table[schema.SAMPLE_ID].to_numpy() for table in (new, old))
            stays = np.isin(old_ids, new_ids)
            live = old[_LIVE.name].to_numpy()
            gone = old.filter(pa.array(~stays & live))
            self._lost.append(old_ids[~stays & ~live])
            fresh = new.filter(pa.array(~np.isin(new_ids, old_ids)))
            self._kept += int((stays & live).sum())
            self._fresh += fresh.num_rows
            if self._old.num_rows:
                self.add_dead(gone.select(POSITION.names))
                self._note(gone[PLACE.name].to_numpy(), is_new=False)
                self._note(_place(fresh), is_new=True)
            yield fresh

    def _note(self, place: np.ndarray, *, is_new: bool) -> None:
        self._moved.add(
            pa.table([place, np.full(len(place), is_new)], schema=_MOVED), bucket_of(place)
        )

    def diff(self) -> Diff:
        """Count what was added, removed, changed and kept."""
        gone = changed = 0
        for bucket in range(NUM_BUCKETS):
            moved = self._moved.read(bucket)
            place, is_new = (moved[name].to_numpy() for name in _MOVED.names)
            gone += int((~is_new).sum())
            changed += int(np.isin(place[~is_new], place[is_new]).sum())
        return Diff(self._fresh - changed, gone - changed, changed, self._kept)

    def dead(self) -> Iterator[tuple[int, pa.Table]]:
        """Yield each part that has dead rows, with their positions in order."""
        for bucket in range(NUM_BUCKETS):
            table = self._dead.read(bucket)
            for part in np.unique(table[PART].to_numpy()):
                rows = table.filter(pc.equal(table[PART], pa.scalar(part, pa.int32())))
                yield int(part), rows.sort_by([(ROW_GROUP, "ascending"), (ROW, "ascending")])


def _bucket(table: pa.Table) -> np.ndarray:
    """Return the bucket of each row: by sample, and for members of a shard by shard."""
    loose = bucket_of(table[schema.SAMPLE_ID].to_numpy())
    packed = pc.is_valid(table["member"]).to_numpy()
    if not packed.any():
        return loose
    shards = table[schema.URI].combine_chunks().dictionary_encode()
    return np.where(packed, bucket_of(_hash(shards.dictionary))[shards.indices.to_numpy()], loose)


def _place(table: pa.Table) -> np.ndarray:
    clip = pc.fill_null(pc.cast(table[schema.CLIP], pa.string()), "")
    return _hash(
        pc.binary_join_element_wise(
            table[schema.URI], pc.fill_null(table["member"], ""), clip, "\0"
        )
    )


def _hash(texts: pa.Array) -> np.ndarray:
    """Hash strings to int64; the same in every process and release, though nothing stored depends
    on it."""
    hashes: np.ndarray = pd.util.hash_array(texts.to_numpy(zero_copy_only=False), categorize=False)
    return hashes.view(np.int64)


def _distinct(table: pa.Table) -> pa.Table:
    """Keep one row of each sample, in the order of the ids: patterns may overlap."""
    _, first = np.unique(table[schema.SAMPLE_ID].to_numpy(), return_index=True)
    return table.take(pa.array(first))
