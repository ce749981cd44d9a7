"""The nearest samples of every sample of a map, by cosine: of embeddings, not of places."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.atlas.chosen import Chosen
from pipelines.embeddings.vector_index import Design, build

QUERY_ROWS = 1 << 13  # searched together


@dataclass(frozen=True, eq=False)
class Near:
    """Neighbours, the nearest first.

    Attributes:
        points: (n, k) int32; -1 where fewer were found.
        cosine: (n, k) float32.
        recall: Share of the true ten nearest that the index finds; 1 where search is exact.
    """

    points: np.ndarray
    cosine: np.ndarray
    recall: float

    def renumbered(self, order: np.ndarray) -> "Near":
        """Return it for points in another order.

        Args:
            order: (n,) the point that comes at each place.
        """
        place = np.empty(len(order) + 1, np.int32)
        place[order] = np.arange(len(order))
        place[-1] = -1
        return Near(place[self.points[order]], self.cosine[order], self.recall)


def find(
    chosen: Chosen, k: int, *, seed: int, num_threads: int, tell: Callable[[int], None]
) -> Near:
    """Find the k nearest of every sample among those on the map.

    Args:
        chosen: The samples.
        k: At least 0; 0 finds none.
        seed: Of the rows that an index is learnt from.
        num_threads: Compute threads.
        tell: Called with how many samples are done, now and then.
    """
    count = len(chosen.rows)
    points = np.full((count, k), -1, np.int32)
    cosine = np.zeros((count, k), np.float32)
    if not k:
        return Near(points, cosine, 1.0)
    design = Design(count, chosen.stored.dim, seed)
    index, built = build(chosen.batches, design, num_threads=num_threads)
    for low, vectors in chosen.batches():
        for start in range(0, len(vectors), QUERY_ROWS):
            some = vectors[start : start + QUERY_ROWS]
            at = low + start
            points[at : at + len(some)], cosine[at : at + len(some)] = _search(index, some, at, k)
            tell(at + len(some))
    return Near(points, cosine, built.recall)


def _search(index: Any, vectors: np.ndarray, first: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Search a batch and leave each sample itself out."""
    cosine, points = index.search(vectors, k + 1)
    own = points == first + np.arange(len(vectors))[:, None]
    own[~own.any(1), -1] = True  # its copies crowded it out: the furthest goes
    others = ~own
    return points[others].reshape(-1, k), cosine[others].reshape(-1, k)
