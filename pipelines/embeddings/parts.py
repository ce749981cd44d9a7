"""Cuts an export into parts, each a range of the rows that its manifest ever stored.

A row keeps its number in all later versions of a manifest, and new rows come behind. So a part is
named by the stored rows that it answers for, and two parts never answer for the same row: whatever
is killed and begun again, no sample is in two files. A newer version adds parts behind, and takes
the rows that are gone out of those that are there, in place.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipelines.corpus.manifest import Manifest

_NAME = re.compile(r"part-(\d{12})-(\d{12})\.\w+")
Range = tuple[int, int]


def part_name(rows: Range, suffix: str = ".parquet") -> str:
    """Name the file of the embeddings of stored rows [start, stop)."""
    return f"part-{rows[0]:012d}-{rows[1]:012d}{suffix}"


def rows_of(name: str) -> Range | None:
    """Return the stored rows that a file answers for; None where it is no part."""
    found = _NAME.fullmatch(name)
    return (int(found[1]), int(found[2])) if found else None


def uncovered(rows: Range, covered: Iterable[Range]) -> list[Range]:
    """Return the ranges in a range that no part answers for, ascending."""
    gaps = []
    at = rows[0]
    for start, stop in sorted(covered):
        if start > at:
            gaps.append((at, start))
        at = max(at, stop)
    if at < rows[1]:
        gaps.append((at, rows[1]))
    return gaps


@dataclass(frozen=True, eq=False)
class LiveRows:
    """The rows of one version of a manifest, by their place among all that it ever stored.

    Attributes:
        manifest: The version.
    """

    manifest: Manifest

    def before(self, stored: int) -> int:
        """Return how many live rows come before a stored row: its position in a
        `ManifestOrder`."""
        groups = self._groups
        index = int(np.searchsorted(groups.stored_ends, stored, side="right"))
        if index == len(groups.stored_ends):
            return int(groups.live_ends[-1])
        alive = self._alive(index)
        first = int(groups.stored_ends[index] - groups.stored[index])
        before = int(groups.live_ends[index]) - len(alive)
        return before + int(np.searchsorted(alive, stored - first))

    def stored(self, position: int) -> int:
        """Return the stored row of the live row at a position."""
        groups = self._groups
        index = int(np.searchsorted(groups.live_ends, position, side="right"))
        alive = self._alive(index)
        first = int(groups.stored_ends[index] - groups.stored[index])
        return first + int(alive[position - (int(groups.live_ends[index]) - len(alive))])

    def revived(self, before: "LiveRows", rows: Range) -> bool:
        """Tell whether a row of a range lives here and was dead in an earlier version."""
        groups = before._groups
        index = int(np.searchsorted(groups.stored_ends, rows[0], side="right"))
        while index < len(groups.stored_ends):
            first = int(groups.stored_ends[index] - groups.stored[index])
            if first >= rows[1]:
                break
            back = first + np.setdiff1d(self._alive(index), before._alive(index))
            if ((back >= rows[0]) & (back < rows[1])).any():
                return True
            index += 1
        return False

    def parts(self, rows: Range, part_rows: int) -> Iterator[tuple[Range, Range]]:
        """Cut a range of stored rows into parts of so many live rows; the last may have fewer.

        Yields:
            The positions of each, and the stored rows that it answers for, which leave no gap.
        """
        first = self.before(rows[0])
        last = self.before(rows[1])
        start = rows[0]
        for begin in range(first, last, part_rows):
            end = min(begin + part_rows, last)
            stop = rows[1] if end == last else self.stored(end)
            yield (begin, end), (start, stop)
            start = stop

    def _alive(self, index: int) -> np.ndarray:
        """Return the live rows of a row group, by their place in it, ascending."""
        groups = self._groups
        part, row_group = groups.places[index].tolist()
        return self.manifest.live_rows(part, row_group, int(groups.stored[index]))

    @cached_property
    def _groups(self) -> "_Groups":
        live = np.array(list(self.manifest.row_groups()), np.int64).reshape(-1, 3)
        stored = np.concatenate([part.stored_rows for part in self.manifest.parts])
        return _Groups(live[:, :2], stored, np.cumsum(stored), np.cumsum(live[:, 2]))


@dataclass(frozen=True, eq=False)
class _Groups:
    """All row groups of a manifest.

    Attributes:
        places: (n, 2) part and row group.
        stored: (n,) rows of each as it was written.
        stored_ends, live_ends: (n,) behind how many stored and live rows each ends.
    """

    places: np.ndarray
    stored: np.ndarray
    stored_ends: np.ndarray
    live_ends: np.ndarray


def returned(parts: Iterable[Range], now: Manifest, before: Manifest) -> list[Range]:
    """Return the parts in which rows live again that were dead in an earlier version: curation
    took them out, and they were brought back."""
    if before.tombstones is None or before.tombstones == now.tombstones:
        return []
    alive = LiveRows(now)
    known = LiveRows(before)
    return [rows for rows in parts if alive.revived(known, rows)]


def changed(parts: Iterable[Range], now: Manifest, before: Manifest | None) -> list[Range]:
    """Return the parts in which rows are gone.

    Args:
        parts: Stored rows of each.
        now: The version that parts shall hold.
        before: The version that they are known to hold; None: not known.
    """
    alive = LiveRows(now)
    known = LiveRows(before) if before is not None else None

    def count(live: LiveRows, rows: Range) -> int:
        return live.before(rows[1]) - live.before(rows[0])

    return [
        rows
        for rows in parts
        if count(alive, rows) < (count(known, rows) if known else rows[1] - rows[0])
    ]
