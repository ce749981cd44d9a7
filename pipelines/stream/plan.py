"""The order of a run: every epoch a seeded permutation of the manifest's row groups, each permuted
inside.

All epochs form one endless sequence of positions. Optimiser step s consumes positions [s * G, (s +
1) * G) of global batch G, whatever the number of workers: a step's samples are a function of
(ledger, seed, s). A run that is resumed onto a newer manifest version keeps what it has consumed;
the running epoch goes on with what is left of it and what is new. So a position says what the
weights have seen, and a ledger of positions and versions is all that a checkpoint must hold.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import pyarrow as pa
import torch

from augment import rng
from pipelines import schema
from pipelines.corpus.manifest import Manifest, open_manifest
from pipelines.stream.ledger import Ledger, Span
from pipelines.stream.orders import keyed


@dataclass(frozen=True, eq=False)
class _Corpus:
    """A manifest version, its row groups counted through all parts; a newer version counts the old
    ones alike."""

    manifest: Manifest

    @cached_property
    def groups(self) -> np.ndarray:
        """Return (row groups, 3) int64: part, row group, rows."""
        return np.array(list(self.manifest.row_groups()), dtype=np.int64).reshape(-1, 3)

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

    def surviving(self, old: "_Corpus", addresses: np.ndarray) -> np.ndarray:
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

    def check_continues(self, old: "_Corpus") -> None:
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
class _Stretch:
    """What one epoch reads of one manifest version.

    Attributes:
        corpus: The version.
        seed: Of the run.
        epoch: The epoch.
        interleave: Row groups of a window, whose rows are permuted together.
        leftover: (L, 2) row group and row of what an earlier version left of a window, in order;
            comes first.
        groups: (M,) row groups after that, in order, none of them empty.
    """

    corpus: _Corpus
    seed: int
    epoch: int
    interleave: int
    leftover: np.ndarray
    groups: np.ndarray

    @classmethod
    def whole(cls, corpus: _Corpus, seed: int, epoch: int, interleave: int) -> "_Stretch":
        """Begin an epoch."""
        groups = np.flatnonzero(corpus.groups[:, 2])
        order = permutation(len(groups), seed=seed, epoch=epoch, stream=-1)
        return cls(corpus, seed, epoch, interleave, np.empty((0, 2), np.int64), groups[order])

    @cached_property
    def ends(self) -> np.ndarray:
        """Return where the leftover and each window end, (1 + windows,) int64."""
        sizes = self.corpus.groups[self.groups, 2]
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

    def cut(self, offset: int, corpus: _Corpus, interleave: int) -> "_Stretch":
        """Return what the epoch still reads, of a newer version, once `offset` rows are
        consumed."""
        corpus.check_continues(self.corpus)
        index, begin, _ = self._window_at(offset)
        leftover = corpus.surviving(self.corpus, self._addresses(index)[offset - begin :])
        new = np.arange(len(self.corpus.groups), len(corpus.groups))
        groups = np.concatenate([self.groups[index * self.interleave :], new])
        groups = groups[corpus.groups[groups, 2] > 0]
        order = permutation(
            len(groups), seed=self.seed, epoch=self.epoch, stream=-1 - corpus.manifest.version
        )
        return _Stretch(corpus, self.seed, self.epoch, interleave, leftover, groups[order])

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
        permuted: np.ndarray = addresses[
            permutation(len(rows), seed=self.seed, epoch=self.epoch, stream=int(members[0]))
        ]
        return permuted


@lru_cache(maxsize=2)
def _whole(corpus: _Corpus, seed: int, epoch: int, interleave: int) -> _Stretch:
    """Draw the order of an epoch once a process: of a million row groups it takes 0.4 s, and every
    item asks."""
    return _Stretch.whole(corpus, seed, epoch, interleave)


@dataclass(frozen=True, eq=False)
class _Piece:
    """Positions [begin, end) of a plan: what is left of an epoch, or whole epochs from `epoch`
    on."""

    begin: int
    end: float
    epoch: int
    corpus: _Corpus
    interleave: int
    rest: _Stretch | None


@dataclass(frozen=True, eq=False)
class Plan:
    """The endless sequence of samples that a run consumes.

    Attributes:
        manifests: The versions that the ledger's spans read, one a span.
        ledger: Which version is read from which position on.
        seed: Another seed, another order.
    """

    manifests: tuple[Manifest, ...]
    ledger: Ledger
    seed: int

    @classmethod
    def fresh(cls, manifest: Manifest, seed: int, interleave: int = 1) -> "Plan":
        """Make the plan of a run that has consumed nothing."""
        return cls((manifest,), Ledger(0, (Span(0, manifest.version, interleave),)), seed)

    @classmethod
    def open(cls, uri: str, ledger: Ledger, seed: int) -> "Plan":
        """Make the plan that a ledger describes, over the versions of a manifest.

        Raises:
            ValueError: a version is gone, or a later one does not continue an earlier one.
        """
        return cls(tuple(open_manifest(uri, span.version) for span in ledger.spans), ledger, seed)

    @property
    def manifest(self) -> Manifest:
        """Return the version read now."""
        return self.manifests[-1]

    def rows(self, start: int, stop: int) -> Iterator[pa.Table]:
        """Yield the samples of positions [start, stop), in order.

        Yields:
            Manifest rows with the columns `row`, `epoch` and `position` added, one table per
            stretch of a row group.
        """
        while start < stop:
            stretch, offset, size = self._locate(start)
            for table in stretch.rows(offset, min(size, offset + stop - start)):
                yield keyed(table, epoch=stretch.epoch, start=start)
                start += table.num_rows

    def positions(self, num_epochs: float) -> int:
        """Number of positions that the first `num_epochs` epochs hold."""
        whole = math.floor(num_epochs)
        begin = self._begin_of(whole)
        return begin + int((num_epochs - whole) * (self._begin_of(whole + 1) - begin))

    def _begin_of(self, epoch: int) -> int:
        for piece in self._pieces:
            begin = piece.begin + (epoch - piece.epoch) * piece.corpus.manifest.num_rows
            if piece.rest is None and epoch >= piece.epoch and begin < piece.end:
                return begin
        raise AssertionError("the last piece has no end")

    def _locate(self, position: int) -> tuple[_Stretch, int, int]:
        """Return the stretch that holds a position, its offset in it, and where the stretch's
        reading ends."""
        piece = next(piece for piece in self._pieces if position < piece.end)
        epochs = 0
        offset = position - piece.begin
        stretch = piece.rest
        if stretch is None:
            epochs, offset = divmod(offset, piece.corpus.manifest.num_rows)
            stretch = _whole(piece.corpus, self.seed, piece.epoch + epochs, piece.interleave)
        return stretch, offset, int(min(stretch.ends[-1], offset + piece.end - position))

    @cached_property
    def _pieces(self) -> list[_Piece]:
        """List every position from 0 on, in order. Cached for the tasks: a version change costs
        reading."""
        pieces: list[_Piece] = []
        begin = 0
        epoch = 0
        rest = None
        corpora = [_Corpus(manifest) for manifest in self.manifests]
        ends = [span.position for span in self.ledger.spans[1:]] + [math.inf]
        for index, (corpus, span, end) in enumerate(
            zip(corpora, self.ledger.spans, ends, strict=True)
        ):
            if rest is not None:
                natural = begin + int(rest.ends[-1])
                pieces.append(
                    _Piece(begin, min(end, natural), epoch, corpus, span.interleave, rest)
                )
                if natural <= end:
                    begin = natural
                    epoch = epoch + 1
                    rest = None
            if rest is None and begin < end:
                pieces.append(_Piece(begin, end, epoch, corpus, span.interleave, None))
            if end == math.inf:
                break
            offset = int(end) - begin
            if rest is None:
                epochs, offset = divmod(offset, corpus.manifest.num_rows)
                epoch += epochs
                rest = _Stretch.whole(corpus, self.seed, epoch, span.interleave) if offset else None
            if rest is not None:
                rest = rest.cut(offset, corpora[index + 1], self.ledger.spans[index + 1].interleave)
            begin = int(end)
        return pieces


def permutation(size: int, *, seed: int, epoch: int, stream: int) -> np.ndarray:
    """Permute range(size) by keyed hashes, so that the order outlives a change of library
    versions."""
    index = torch.arange(size, dtype=torch.int64)
    keys = rng.uniform(
        1, seed=seed, epoch=torch.full_like(index, epoch), sample_id=index, view=stream, op="order"
    )
    return np.argsort(keys[:, 0].numpy(), kind="stable")
