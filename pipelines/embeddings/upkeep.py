"""Keeps an export true to its manifest: takes out the rows that are gone, and checks that every
sample is there once or in the quarantine."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from pipelines import schema
from pipelines.corpus.manifest import Manifest
from pipelines.embeddings.part_files import PartFiles
from pipelines.embeddings.parts import LiveRows, Range, uncovered
from pipelines.ray_tasks import map_in_tasks, said_to
from pipelines.storage.lease import Fence
from pipelines.storage.retries import StorageError
from pipelines.stream.orders import ManifestOrder

TASK_PARTS = 16
_ABSENT = 0
_TWICE = 1
_FOREIGN = 2
_WORDS = {
    _ABSENT: "samples are neither there nor in the quarantine",
    _TWICE: "samples are there twice",
    _FOREIGN: "rows are of no sample",
}
_DROPPED = "dropped"
_WHAT = "what"


@dataclass(frozen=True, eq=False)
class Upkeep:
    """What a task needs to know.

    Attributes:
        files: The export's parts.
        manifest: What they shall hold.
        fence: Of the export's lease.
        each_frame: Whether a sample has a row for every frame.
    """

    files: PartFiles
    manifest: Manifest
    fence: Fence | None = None
    each_frame: bool = False

    @cached_property
    def _live(self) -> LiveRows:
        return LiveRows(self.manifest)

    def alive(self, rows: Range) -> np.ndarray:
        """Return the ids of the samples that a part answers for, (n,) int64."""
        first = self._live.before(rows[0])
        last = self._live.before(rows[1])
        tables = ManifestOrder(self.manifest).rows(first, last)
        found = [table[schema.SAMPLE_ID].to_numpy() for table in tables]
        return np.concatenate([np.empty(0, np.int64), *found])

    def drop(self, rows: Range) -> int:
        """Write a part anew without the samples that are gone; returns how many went."""
        table = self.files.read(rows)
        stays = pc.is_in(table[schema.SAMPLE_ID], pa.array(self.alive(rows)))
        kept = table.filter(stays)
        if kept.num_rows < table.num_rows:
            self.files.write(rows, kept, self.fence)
        return int(table.num_rows - kept.num_rows)

    def look(self, rows: Range) -> tuple[np.ndarray, np.ndarray]:
        """Compare a part with the manifest.

        Returns:
            Ids that are not as they should be, and for each what is wrong: `_ABSENT`, `_TWICE` or
                `_FOREIGN`.
        """
        names = [schema.SAMPLE_ID, *([schema.FRAME] if self.each_frame else [])]
        table = self.files.read(rows, names)
        keys = np.stack([table[name].to_numpy().astype(np.int64) for name in names], axis=1)
        alive = self.alive(rows)
        each, counts = np.unique(keys, axis=0, return_counts=True)
        distinct = np.unique(each[:, 0])
        found = {
            _ABSENT: np.setdiff1d(alive, distinct),
            _TWICE: np.unique(each[counts > 1, 0]),
            _FOREIGN: np.setdiff1d(distinct, alive),
        }
        ids = np.concatenate(list(found.values()))
        what = [np.full(len(values), code) for code, values in found.items()]
        return ids, np.concatenate(what)


def drop_gone(upkeep: Upkeep, parts: list[Range]) -> int:
    """Take the samples that are gone out of parts; returns how many went."""
    return sum(int(batch[_DROPPED].sum()) for batch in _over(parts, partial(_drop, upkeep=upkeep)))


def _drop(batch: dict[str, np.ndarray], upkeep: Upkeep) -> dict[str, np.ndarray]:
    return {_DROPPED: np.array([upkeep.drop(rows) for rows in _ranges(batch)], np.int64)}


def check(upkeep: Upkeep, quarantined: np.ndarray) -> int:
    """Make sure that every sample of the manifest is in one part once, or in the quarantine.

    Args:
        upkeep: Of the export.
        quarantined: Ids of the samples in the quarantine.

    Returns:
        How many samples are in the quarantine and not there.

    Raises:
        StorageError: it is not so; the line says how many samples, and of which part.
    """
    parts = upkeep.files.there()
    live = LiveRows(upkeep.manifest)
    place = upkeep.files.place
    for (_, stop), (start, _) in pairwise(parts):
        if start < stop:
            raise StorageError(place, f"two parts answer for row {start}: choose another out")
    for start, stop in uncovered((0, upkeep.manifest.num_stored), parts):
        if number := live.before(stop) - live.before(start):
            raise StorageError(place, f"{number} samples are in no part: run the same job again")
    absent = 0
    for batch in _over(parts, partial(_look, upkeep=upkeep)):
        what = batch[_WHAT]
        excused = (what == _ABSENT) & np.isin(batch[schema.SAMPLE_ID], quarantined)
        absent += int(excused.sum())
        for code, words in _WORDS.items():
            wrong = batch[schema.SAMPLE_ID][(what == code) & ~excused]
            if len(wrong):
                first = f"{len(wrong)} {words} (sample_id {wrong[0]})"
                raise StorageError(place, f"{first}: somebody else wrote there; choose another out")
    return absent


def _look(batch: dict[str, np.ndarray], upkeep: Upkeep) -> dict[str, np.ndarray]:
    found = [upkeep.look(rows) for rows in _ranges(batch)]
    ids, what = (np.concatenate(values) for values in zip(*found, strict=True))
    return {schema.SAMPLE_ID: ids, _WHAT: what}


def _ranges(batch: dict[str, np.ndarray]) -> list[Range]:
    return list(zip(batch["start"].tolist(), batch["stop"].tolist(), strict=True))


def _over(parts: list[Range], function: object) -> Iterator[dict[str, np.ndarray]]:
    """Apply a function to parts in tasks, some of them together."""
    if not parts:
        return
    blocks = []
    for first in range(0, len(parts), TASK_PARTS):
        some = parts[first : first + TASK_PARTS]
        starts = [start for start, _ in some]
        blocks.append(pa.table({"start": starts, "stop": [stop for _, stop in some]}))
    dataset = ray.data.from_blocks(blocks)
    dataset.context.execution_no_progress_timeout_s = -1
    done = map_in_tasks(dataset, function, batch_size=None, num_cpus=0.5)  # type: ignore[arg-type]
    said_to(done, "looking through parts", len(parts))
    yield from done.iter_batches(batch_size=None)
