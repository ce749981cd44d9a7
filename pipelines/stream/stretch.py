"""What one epoch reads of one manifest version, and what is left of it when a newer version joins.

A sample that was read, went and came back between two listings is a new row of the newer version.
It counts as read: an epoch shows every sample at most once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from augment.column_draws import uniform
from pipelines import schema
from pipelines.corpus.manifest import Manifest


@dataclass(frozen=True, eq=False)
class Corpus:
    """A manifest version, its row groups counted through all parts; a newer version counts the old
    ones alike."""

    manifest: Manifest

    @cached_property
    def groups(self) -> np.ndarray:
        """Return (row groups, 3) int64: part, row group, rows."""
        return np.array(list(self.manifest.row_groups()), dtype=np.int64).reshape(-1, 3)

    @cached_property
    def dead(self) -> np.ndarray:
        """Return the dead rows of each row group, (row groups,) int64."""
        parts = self.manifest.parts
        counts = [part.dead_rows or (0,) * len(part.row_groups) for part in parts]
        return np.array([count for part in counts for count in part], np.int64)

    def read(self, group: int) -> pa.Table:
        """Read a row group."""
        part, row_group, _ = self.groups[group]
        return self.manifest.read_row_group(int(part), int(row_group))

    def take(self, addresses: np.ndarray) -> pa.Table:
        """Read the rows at (n, 2) row group and row, in that order."""
        members, which = np.unique(addresses[:, 0], return_inverse=True)
        tables = [
            self.read(group).take(pa.array(addresses[which == i, 1]))
            for i, group in enumerate(members)
        ]
        if len(tables) == 1:
            return tables[0]
        return pa.concat_tables(tables).take(pa.array(np.argsort(np.argsort(which, kind="stable"))))

    def surviving(self, old: "Corpus", addresses: np.ndarray) -> np.ndarray:
        """Return the addresses of an older version's rows that this one still has, in the same
        order."""
        rows = np.full(len(addresses), -1)
        for group in np.unique(addresses[:, 0]):
            here = addresses[:, 0] == group
            place = {
                sample: row
                for row, sample in enumerate(self.read(group)[schema.SAMPLE_ID].to_pylist())
            }
            wanted = old.read(group)[schema.SAMPLE_ID].to_numpy()[addresses[here, 1]]
            rows[here] = [place.get(sample, -1) for sample in wanted.tolist()]
        return np.stack([addresses[:, 0], rows], axis=1)[rows >= 0]  # (n, 2)

    def check_continues(self, old: "Corpus") -> None:
        """Refuse a manifest that is no later version of another.

        Raises:
            ValueError: it does not begin with the other's parts.
        """
        known = [part.path for part in old.manifest.parts]
        if [part.path for part in self.manifest.parts[: len(known)]] != known:
            raise ValueError(
                f"manifest {self.manifest.uri} version {self.manifest.version} does not continue"
                f" version {old.manifest.version}: it was made anew, so start a new run with"
                " another out"
            )


@dataclass(frozen=True, eq=False)
class Seen:
    """What the running epoch has read of one manifest version.

    Attributes:
        corpus: The version.
        groups: (G,) row groups read whole.
        rows: (R, 2) row group and row of what else was read.
    """

    corpus: Corpus
    groups: np.ndarray
    rows: np.ndarray

    def gone(self, now: Corpus) -> np.ndarray:
        """Return the ids of the samples of these rows that a newer version no longer has there,
        (n,) int64; only row groups that may have lost rows are read."""
        read = np.unique(np.concatenate([self.groups, self.rows[:, 0]]))
        whole = set(self.groups.tolist())
        found = [np.empty(0, np.int64)]
        fewer = now.groups[read, 2] < self.corpus.groups[read, 2]
        # where curation took rows out, as many may have come back as went
        for group in read[fewer | (self.corpus.dead[read] > 0)]:
            ids = self.corpus.read(group)[schema.SAMPLE_ID].to_numpy()
            if group not in whole:
                ids = ids[self.rows[self.rows[:, 0] == group, 1]]
            found.append(np.setdiff1d(ids, now.read(group)[schema.SAMPLE_ID].to_numpy()))
        return np.concatenate(found)


def _returned(corpus: Corpus, groups: np.ndarray, seen: list[Seen]) -> np.ndarray:
    """Return the rows of unread row groups whose samples the epoch has seen at another row.

    A file that was deleted and came back between two listings is a new row of the same sample.

    Args:
        corpus: The version that is read from now on.
        groups: (M,) its row groups that the epoch has not read.
        seen: What the epoch has read, of the version that it began with first.

    Returns:
        (n, 2) row group and row, sorted by row group.
    """
    gone = np.concatenate([read.gone(corpus) for read in seen])
    found = [np.empty((0, 2), np.int64)]
    if not len(gone):
        return found[0]
    for group in np.sort(groups[groups >= len(seen[0].corpus.groups)]):
        ids = corpus.read(group)[schema.SAMPLE_ID].to_numpy()
        rows = np.flatnonzero(np.isin(ids, gone))
        found.append(np.stack([np.full_like(rows, group), rows], axis=1))
    return np.concatenate(found)


@dataclass(frozen=True, eq=False)
class Stretch:
    """What one epoch reads of one manifest version.

    Attributes:
        corpus: The version.
        seed: Of the run.
        epoch: The epoch.
        interleave: Row groups of a window, whose rows are permuted together.
        leftover: (L, 2) row group and row of what an earlier version left of a window, in order;
            comes first.
        groups: (M,) row groups after that, in order, none of them empty.
        returned: (R, 2) row group and row of what the epoch has seen before, sorted by row group;
            left out of those.
    """

    corpus: Corpus
    seed: int
    epoch: int
    interleave: int
    leftover: np.ndarray
    groups: np.ndarray
    returned: np.ndarray

    @classmethod
    def whole(cls, corpus: Corpus, seed: int, epoch: int, interleave: int) -> "Stretch":
        """Begin an epoch."""
        groups = np.flatnonzero(corpus.groups[:, 2])
        order = permutation(len(groups), seed=seed, epoch=epoch, stream=-1)
        nothing = np.empty((0, 2), np.int64)
        return cls(corpus, seed, epoch, interleave, nothing, groups[order], nothing)

    @cached_property
    def ends(self) -> np.ndarray:
        """Return where the leftover and each window end, (1 + windows,) int64."""
        sizes = _sizes(self.corpus, self.groups, self.returned)
        windows = (
            np.add.reduceat(sizes, np.arange(0, len(sizes), self.interleave))
            if len(sizes)
            else sizes
        )
        return np.cumsum(np.concatenate([[len(self.leftover)], windows]))

    def rows(self, first: int, last: int) -> Iterator[pa.Table]:
        """Yield the rows [first, last) of the stretch, a window at a time."""
        while first < last:
            index, begin, end = self._window_at(first)
            yield self.corpus.take(self._addresses(index)[first - begin : min(last, end) - begin])
            first = end

    def seen(self, offset: int) -> Seen:
        """Return what the epoch has read here, once `offset` rows are consumed."""
        index, begin, _ = self._window_at(offset)
        rows = self._addresses(index)[: offset - begin]
        if index == 0:
            return Seen(self.corpus, self.groups[:0], rows)
        whole = self.groups[: (index - 1) * self.interleave]
        return Seen(self.corpus, whole, np.concatenate([self.leftover, rows]))

    def cut(
        self, offset: int, corpus: Corpus, interleave: int, before: list[Seen]
    ) -> tuple["Stretch", list[Seen]]:
        """Return what the epoch still reads, of a newer version, once `offset` rows are consumed.

        Args:
            offset: Rows of this stretch.
            corpus: The newer version.
            interleave: Row groups of a window from now on.
            before: What the epoch has read before this stretch.

        Returns:
            The rest of the epoch, and all that the epoch has read.
        """
        corpus.check_continues(self.corpus)
        seen = [*before, self.seen(offset)]
        index, begin, _ = self._window_at(offset)
        leftover = corpus.surviving(self.corpus, self._addresses(index)[offset - begin :])
        new = np.arange(len(self.corpus.groups), len(corpus.groups))
        groups = np.concatenate([self.groups[index * self.interleave :], new])
        returned = _returned(corpus, groups, seen)
        groups = groups[_sizes(corpus, groups, returned) > 0]
        order = permutation(
            len(groups), seed=self.seed, epoch=self.epoch, stream=-1 - corpus.manifest.version
        )
        rest = Stretch(corpus, self.seed, self.epoch, interleave, leftover, groups[order], returned)
        return rest, seen

    def _window_at(self, position: int) -> tuple[int, int, int]:
        """Index, first and end position of the window that holds a position; window 0 is the
        leftover."""
        index = int(np.searchsorted(self.ends, position, side="right"))
        return index, int(self.ends[index - 1]) if index else 0, int(self.ends[index])

    def _addresses(self, index: int) -> np.ndarray:
        """Return row group and row of every row of a window, permuted, (n, 2)."""
        if index == 0:
            return self.leftover
        members = self.groups[(index - 1) * self.interleave : index * self.interleave]
        sizes = self.corpus.groups[members, 2]
        rows = np.concatenate([np.arange(size) for size in sizes])
        addresses = np.stack([np.repeat(members, sizes), rows], axis=1)
        if len(self.returned):
            addresses = addresses[~np.isin(_keys(addresses), _keys(self.returned))]
        permuted: np.ndarray = addresses[
            permutation(len(addresses), seed=self.seed, epoch=self.epoch, stream=int(members[0]))
        ]
        return permuted


def _sizes(corpus: Corpus, groups: np.ndarray, returned: np.ndarray) -> np.ndarray:
    """Return how many rows of each row group are read, (M,)."""
    first, last = (np.searchsorted(returned[:, 0], groups, side) for side in ("left", "right"))
    sizes: np.ndarray = corpus.groups[groups, 2] - (last - first)
    return sizes


def _keys(addresses: np.ndarray) -> np.ndarray:
    """Return one number for each row group and row, (n,)."""
    keys: np.ndarray = (addresses[:, 0] << 32) + addresses[:, 1]
    return keys


def permutation(size: int, *, seed: int, epoch: int, stream: int) -> np.ndarray:
    """Permute range(size) by keyed hashes, so that the order outlives a change of library
    versions."""
    index = np.arange(size)
    keys = uniform(
        1, seed=seed, epoch=np.full_like(index, epoch), sample_id=index, view=stream, op="order"
    )
    return np.argsort(keys[:, 0], kind="stable")
