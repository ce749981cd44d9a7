"""Finds the duplicates of a corpus: pairs of near embeddings, confirmed by their pictures.

A cosine alone does not tell copies from look-alikes with every encoder. So the samples of near
pairs are read once, as small grey pictures, and those of a pair are laid over each other.
Memory grows with the samples of near pairs, about 100 bytes each and 20 a pair, not with the
corpus.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import ray

from pipelines import schema
from pipelines.corpus.curated_version import only
from pipelines.corpus.manifest import Manifest
from pipelines.curation.alignment import alike
from pipelines.curation.assigned import Assignment
from pipelines.curation.duplicate_groups import decide, ranks
from pipelines.curation.near_pairs import read_pairs
from pipelines.curation.small_pictures import SmallPictures, stream_of
from pipelines.media.contract import Limits
from pipelines.ray_tasks import MAX_RETRIES

EXACT = "exact duplicate"
NEAR = "near duplicate"
TASK_PAIRS = 1 << 11
TASKS_AHEAD = 2  # a CPU


@dataclass(frozen=True, eq=False)
class NearPairs:
    """Pairs of near embeddings, each once.

    Attributes:
        ids: (n,) sample ids in them, ascending.
        pairs: (P, 2) indices of those, the lower first, sorted.
        cosine: (P,) float32.
    """

    ids: np.ndarray
    pairs: np.ndarray
    cosine: np.ndarray

    @classmethod
    def read(cls, work: Assignment) -> "NearPairs":
        """Gather the pairs of all buckets."""
        tables = list(read_pairs(work))
        names = ("first", "second", "cosine")
        first, second, cosine = (
            np.concatenate([np.empty(0, kind), *(table[name].to_numpy() for table in tables)])
            for name, kind in zip(names, (np.int64, np.int64, np.float32), strict=True)
        )
        del tables
        ids = np.unique(np.concatenate([first, second]))
        pairs = np.stack([np.searchsorted(ids, first), np.searchsorted(ids, second)], axis=1)
        _, once = np.unique(_keys(pairs), return_index=True)
        return cls(ids, pairs[once], cosine[once])

    def cosine_of(self, pairs: np.ndarray) -> np.ndarray:
        """Return the cosines of pairs (P, 2), NaN for others than these."""
        keys = _keys(np.sort(pairs, axis=1))
        known = _keys(self.pairs)
        if not len(known):
            return np.full(len(pairs), np.nan, np.float32)
        place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
        found: np.ndarray = np.where(known[place] == keys, self.cosine[place], np.nan)
        return found


def _keys(pairs: np.ndarray) -> np.ndarray:
    keys: np.ndarray = (pairs[:, 0].astype(np.int64) << 32) + pairs[:, 1]
    return keys


@dataclass(frozen=True, eq=False)
class Gone:
    """Duplicates that go, a row each, by ascending sample id.

    Attributes:
        ids: (n,) int64.
        kept: (n,) sample id of the one that stays for it.
        cosine: (n,) float32 of the two; NaN where it was not among the nearest.
        exact: (n,) bool, whether the two are equal files.
        looked_at: Samples whose pictures were compared.
        unreadable: Those of them that could not be read, which stay.
    """

    ids: np.ndarray
    kept: np.ndarray
    cosine: np.ndarray
    exact: np.ndarray
    looked_at: int = 0
    unreadable: int = 0

    def place_of(self, ids: np.ndarray) -> np.ndarray:
        """Return the row of each sample, -1 for those that do not go as duplicates."""
        if not len(self.ids):
            return np.full(len(ids), -1)
        place = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        return np.where(self.ids[place] == ids, place, -1)


def nothing_gone() -> Gone:
    """Return no duplicates."""
    none = np.empty(0, np.int64)
    return Gone(none, none, none.astype(np.float32), none.astype(bool))


@dataclass(frozen=True)
class Looking:
    """How duplicates are told.

    Attributes:
        manifest: The corpus, with all samples that may come back.
        limits: What a file may cost.
        min_alike: Of the details of two pictures, correlation at least; None: the cosine decides.
        tombstones: Path below the manifest for the samples to look at.
        folder: A local folder for their pictures.
    """

    manifest: Manifest
    limits: Limits
    min_alike: float | None
    tombstones: str
    folder: str


def find(near: NearPairs, looking: Looking) -> Gone:
    """Decide which samples of near pairs go."""
    if not len(near.ids):
        return nothing_gone()
    suspects = only(looking.manifest, near.ids, looking.tombstones)
    seen = SmallPictures.blank(near.ids, looking.folder)
    if looking.min_alike is None:
        _take_sizes(seen, suspects)
        pairs = near.pairs
    else:
        seen.take(iter(stream_of(suspects, looking.limits, "curate").iter_batches(batch_size=None)))
        pairs = near.pairs[seen.readable[near.pairs].all(1)]
        pairs = pairs[_confirmed(pairs, seen, looking.min_alike)]
    rank = ranks(seen.pixels, seen.nbytes, -seen.row)

    def compare(more: np.ndarray) -> np.ndarray:
        if looking.min_alike is None:
            return np.zeros(len(more), bool)
        return _confirmed(more, seen, looking.min_alike)

    found = decide(pairs, rank, compare)
    both = np.stack([found.gone, found.kept], axis=1)
    return Gone(
        near.ids[found.gone],
        near.ids[found.kept],
        near.cosine_of(both),
        _equal_files(both, seen),
        int(seen.readable.sum()),
        int((~seen.readable).sum()) if looking.min_alike is not None else 0,
    )


def _take_sizes(seen: SmallPictures, suspects: Manifest) -> None:
    """Fill in what the manifest knows of samples that are not read."""
    columns = [schema.SAMPLE_ID, schema.LENGTH]
    for part, row_group, rows in suspects.row_groups():
        if rows:
            table = suspects.read_row_group(part, row_group, columns)
            place = np.searchsorted(seen.ids, table[schema.SAMPLE_ID].to_numpy())
            seen.nbytes[place] = table[schema.LENGTH].to_numpy()
            seen.row[place] = table[schema.ROW].to_numpy()


def _equal_files(pairs: np.ndarray, seen: SmallPictures) -> np.ndarray:
    """Tell which pairs are equal to the byte, and the same clip where they are videos."""
    one, other = pairs.T
    same: np.ndarray = (seen.content[one] == seen.content[other]) & (seen.content[one] != 0)
    for index in np.flatnonzero(same):
        same[index] = (seen.grey[one[index]] == seen.grey[other[index]]).all()
    return same


def _confirmed(pairs: np.ndarray, seen: SmallPictures, min_alike: float) -> np.ndarray:
    """Tell which pairs (P, 2) show the same picture, in tasks."""
    same = _equal_files(pairs, seen)
    open_ = np.flatnonzero(~same)
    score = np.concatenate([np.empty(0, np.float32), *_scores(pairs[open_], seen)])
    same[open_] = score >= min_alike
    return same


def _scores(pairs: np.ndarray, seen: SmallPictures) -> Iterator[np.ndarray]:
    task = ray.remote(_score).options(max_retries=MAX_RETRIES)
    most = TASKS_AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
    running = deque[ray.ObjectRef]()
    for start in range(0, len(pairs), TASK_PAIRS):
        some = pairs[start : start + TASK_PAIRS]
        running.append(task.remote(seen.grey[some[:, 0]], seen.grey[some[:, 1]]))
        if len(running) >= most:
            yield ray.get(running.popleft())
    while running:
        yield ray.get(running.popleft())


def _score(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    import torch  # here, as only tasks need it

    torch.set_num_threads(1)
    return alike(first, second)
