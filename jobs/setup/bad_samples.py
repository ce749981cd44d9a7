"""The one rule for samples that cannot be used: when they are too many, and what is said of
them."""

import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from jobs.setup.failures import RunError
from pipelines.media.contract import REASONS
from pipelines.stream import quarantine

MIN_SAMPLES = 100  # before the fraction of bad samples means anything; at the end it always counts
NUM_TOP_REASONS = 4


def by_reason(codes: np.ndarray) -> dict[str, int]:
    """Count the reasons of a stream's rows, as the column `schema.REASON` codes them."""
    counts = Counter(codes[codes > 0].tolist())
    return {REASONS[code - 1]: count for code, count in counts.items()}


class BadSamples:
    """Counts samples seen, and those of them that could not be used, by reason.

    Args:
        max_fraction: More bad ones than this are too many: `source.max_bad_fraction`.
        place: Folder of the quarantine table, for messages; None: there is none.
        epoch: So many samples in a row without one that can be used are an error as well.

    Attributes:
        seen: Samples so far.
        reasons: Bad ones so far, by reason.
    """

    def __init__(self, max_fraction: float, place: str | None, epoch: int | None = None) -> None:
        self.seen = 0
        self.reasons = Counter[str]()
        self._max = max_fraction
        self._place = place
        self._epoch = epoch
        self._barren = 0  # samples since the last one that could be used

    @classmethod
    def of_quarantine(cls, max_fraction: float, folder: str, seen: int) -> "BadSamples":
        """Count what stands in a quarantine, of so many samples."""
        bad = cls(max_fraction, folder)
        bad.add(seen, quarantine.summarise(folder).reasons)
        return bad

    @property
    def total(self) -> int:
        """Return the bad samples so far."""
        return self.reasons.total()

    def add(self, seen: int, reasons: Mapping[Any, int]) -> None:
        """Count further samples."""
        bad = sum(reasons.values())
        self.seen += seen
        self.reasons.update(reasons)
        self._barren = self._barren + seen if bad >= seen else 0

    def problem(self, *, final: bool = False) -> str | None:
        """Say in one line why they are too many; None where they are not.

        Args:
            final: Whether no more samples come, so that few of them count as well.
        """
        if not self.seen:
            return None
        see = f": see {self._place} for the files and reasons" if self._place else ""
        if self._barren >= (self._epoch or self.seen + 1) or (final and self.total >= self.seen):
            return f"no sample can be used: {self.summary()}{see}"
        enough = final or self.seen >= MIN_SAMPLES
        if enough and self.total > self._max * self.seen:
            return f"{self.summary()}, more than source.max_bad_fraction={self._max}{see}"
        return None

    def check(self, *, final: bool = False) -> None:
        """Refuse too many.

        Raises:
            RunError: they are.
        """
        if problem := self.problem(final=final):
            raise RunError(problem)

    def summary(self) -> str:
        """Say what part of the samples is bad, with the top reasons."""
        top = self.reasons.most_common(NUM_TOP_REASONS)
        said = ", ".join(f"{count} {reason}" for reason, count in top)
        share = f"{self.total / self.seen:.0%}" if self.seen else "0%"
        return f"{self.total} of {self.seen} samples ({share}) are bad ({said})"

    def tell(self) -> None:
        """Say on stderr what was left out, by reason; nothing where nothing was."""
        if not self.total:
            return
        said = ", ".join(f"{count} x {reason}" for reason, count in self.reasons.most_common())
        see = f"; see {self._place}" if self._place else ""
        print(f"left out {self.total} of {self.seen} samples: {said}{see}", file=sys.stderr)
