"""Chooses the samples of a map and its landmarks by their keys, and reads their embeddings."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from augment import rng
from pipelines import schema
from pipelines.embeddings.stored import Stored
from pipelines.embeddings.stored_rows import scan
from pipelines.embeddings.vector_index import unit


@dataclass(frozen=True, eq=False)
class Chosen:
    """The samples that a map shows, in the export's order.

    Attributes:
        stored: The export.
        rows: (n,) int64, their rows in it, ascending.
        ids: (n,) int64, their sample ids.
        landmarks: (L,) int64, which of them the map is learnt from, ascending.
        vectors: (L, D) float32 of length 1, the embeddings of those.
        unusable: Rows left out as they have no direction: not finite, or zero.
    """

    stored: Stored
    rows: np.ndarray
    ids: np.ndarray
    landmarks: np.ndarray
    vectors: np.ndarray
    unusable: int

    def batches(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the number of the first sample of each batch, and the batch (B, D), at length 1."""
        if len(self.landmarks) == len(self.rows):  # all are in memory
            yield 0, self.vectors
            return
        for low, vectors in read(self.stored, self.rows):
            scaled, usable = unit(vectors)
            assert usable.all(), "rows that cannot be used are not chosen"
            yield low, scaled


def choose(stored: Stored, *, most: int, landmarks: int, seed: int) -> Chosen:
    """Choose which samples are shown, and which of them are landmarks.

    A sample is chosen by the hash of its id: whatever else is in the export, those with the lowest
    ones are taken.

    Args:
        stored: The export.
        most: Samples shown, at most.
        landmarks: At most.
        seed: Of the hash.

    Raises:
        ValueError: no embedding has a direction.
    """
    found = [table[schema.SAMPLE_ID].to_numpy() for _, table in scan(stored, [schema.SAMPLE_ID])]
    ids = np.concatenate([np.empty(0, np.int64), *found])
    keys = keys_of(ids, seed)
    rows = np.sort(lowest(keys, most))
    learnt = np.isin(rows, rows[lowest(keys[rows], landmarks)])
    there = np.ones(len(rows), bool)
    vectors = list[np.ndarray]()
    for low, batch in read(stored, rows):
        scaled, usable = unit(batch)
        high = low + len(batch)
        there[low:high] = usable
        vectors.append(scaled[learnt[low:high][usable]])
    if not there.any():
        raise ValueError(f"none of the {len(rows)} embeddings of {stored.uri} is finite and not 0")
    landmark = np.flatnonzero(learnt[there])
    if not len(landmark):
        raise ValueError(f"none of the {landmarks} landmarks of {stored.uri} is finite: draw more")
    kept = rows[there]
    unusable = int((~there).sum())
    return Chosen(stored, kept, ids[kept], landmark, np.concatenate(vectors), unusable)


def read(stored: Stored, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the embeddings of rows (ascending) of an export, as they are, with the place of the
    first of each batch among those rows."""
    start = 0
    for block in stored.blocks():
        low, high = np.searchsorted(rows, (start, start + len(block.ids)))
        if high > low:
            yield int(low), block.vectors[rows[low:high] - start]
        start += len(block.ids)


def keys_of(ids: np.ndarray, seed: int) -> np.ndarray:
    """Hash sample ids, (n,) int64."""
    samples = torch.tensor(ids, dtype=torch.int64)
    nothing = torch.zeros_like(samples)
    state = rng.state(seed=seed, epoch=nothing, sample_id=samples, view=0, op="atlas")
    keys: np.ndarray = state.numpy()
    return keys


def lowest(keys: np.ndarray, count: int) -> np.ndarray:
    """Return the places of the lowest keys."""
    if len(keys) <= count:
        return np.arange(len(keys))
    return np.argpartition(keys, count)[:count]
