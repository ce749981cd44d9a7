"""The order of a run: every epoch a seeded permutation of the manifest's row groups, each permuted
inside.

All epochs form one endless sequence of positions. Optimiser step s consumes positions [s * G, (s +
1) * G) of global batch G, whatever the number of workers: a step's samples are a function of
(ledger, seed, s). A run that is resumed onto a newer manifest version keeps what it has consumed;
the running epoch goes on with what is left of it and what is new. A sample that went and came back
is not new. So a position says what the weights have seen, and a ledger of positions and versions
is all that a checkpoint must hold.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import pyarrow as pa

from pipelines.corpus.manifest import Manifest, open_manifest
from pipelines.stream.ledger import Ledger, Span
from pipelines.stream.orders import keyed
from pipelines.stream.stretch import Corpus, Seen, Stretch


@lru_cache(maxsize=2)
def _whole(corpus: Corpus, seed: int, epoch: int, interleave: int) -> Stretch:
    """Draw the order of an epoch once a process: of a million row groups it takes 0.4 s, and every
    item asks."""
    return Stretch.whole(corpus, seed, epoch, interleave)


@dataclass(frozen=True, eq=False)
class _Piece:
    """Positions [begin, end) of a plan: what is left of an epoch, or whole epochs from `epoch`
    on."""

    begin: int
    end: float
    epoch: int
    corpus: Corpus
    interleave: int
    rest: Stretch | None


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

    def _locate(self, position: int) -> tuple[Stretch, int, int]:
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
        seen: list[Seen] = []  # by the running epoch
        corpora = [Corpus(manifest) for manifest in self.manifests]
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
                    seen = []
            if rest is None and begin < end:
                pieces.append(_Piece(begin, end, epoch, corpus, span.interleave, None))
            if end == math.inf:
                break
            offset = int(end) - begin
            if rest is None:
                epochs, offset = divmod(offset, corpus.manifest.num_rows)
                epoch += epochs
                rest = Stretch.whole(corpus, self.seed, epoch, span.interleave) if offset else None
            if rest is not None:
                interleave = self.ledger.spans[index + 1].interleave
                rest, seen = rest.cut(offset, corpora[index + 1], interleave, seen)
            begin = int(end)
        return pieces
