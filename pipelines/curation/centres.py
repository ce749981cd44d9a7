"""The clusters of a corpus: centres by k-means of a sample of its embeddings, and centres of those,
level by level (hierarchical k-means, arXiv:2405.15613).

How the sample is drawn bounds the memory; every embedding is then assigned to its nearest centre.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import faiss
import numpy as np
import torch
from torch.nn import functional

from models.clustering.k_means import k_means
from pipelines.embeddings.vector_index import unit

SAMPLES_A_CLUSTER = 40  # at least; faiss's own least is 39
MANY_SAMPLES = 256  # a cluster, which more would not move
ROWS_A_CLUSTER = 1000  # of the corpus, where the number of clusters is not given
FEW_ROWS = 20  # a cluster, of a small corpus
FEW_CLUSTERS = 64
SAMPLE_BYTES = 1 << 25
MOST_CLUSTERS = 1 << 14
SHRINK = 8  # clusters of a level, for one of the level above
LEAST_TOP = 8  # clusters of the top level, about
ITERATIONS = 10


@dataclass(frozen=True, eq=False)
class Centres:
    """Where the clusters lie.

    Attributes:
        lowest: (K, D) float32 of length 1.
        parents: Of each level above, the cluster there of each cluster below it, (K,) int64 first.
    """

    lowest: np.ndarray
    parents: tuple[np.ndarray, ...]

    def nearest(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find the two nearest centres of vectors (n, D) of length 1.

        Returns:
            Clusters (n, 2) and cosines (n, 2); of one cluster alone, the second is -1 and -inf.
        """
        index = faiss.IndexFlatIP(self.lowest.shape[1])
        index.add(self.lowest)
        cosine, cluster = index.search(vectors, 2)
        missing = cluster < 0
        return cluster, np.where(missing, -np.inf, cosine)


def num_clusters(num_rows: int, dim: int, wanted: int | None) -> int:
    """Return how many clusters the lowest level has: as wanted, else one for every 1,000 samples,
    of a small corpus 64 or one for every 20; no more than the sample can place."""
    most = max(1, SAMPLE_BYTES // (4 * dim * SAMPLES_A_CLUSTER))
    few = min(FEW_CLUSTERS, num_rows // FEW_ROWS)
    count = wanted or min(MOST_CLUSTERS, max(few, num_rows // ROWS_A_CLUSTER))
    return max(1, min(count, most, num_rows))


def num_samples(num_rows: int, dim: int, count: int) -> int:
    """Return how many embeddings so many centres are learnt from."""
    return min(num_rows, count * MANY_SAMPLES, SAMPLE_BYTES // (4 * dim))


def learn(sample: np.ndarray, count: int, seed: int) -> Centres:
    """Learn centres from a sample.

    Args:
        sample: (N, D) float32 of length 1.
        count: K of the lowest level; at most N.
        seed: Of the centres begun with.
    """
    lowest = _k_means(sample, min(count, len(sample)), seed)
    parents = list[np.ndarray]()
    below = lowest
    while len(below) > SHRINK * LEAST_TOP:
        above = _k_means(below, len(below) // SHRINK, seed)
        parents.append(Centres(above, ()).nearest(below)[0][:, 0])
        below = above
    return Centres(lowest, tuple(parents))


def _k_means(points: np.ndarray, count: int, seed: int) -> np.ndarray:
    found, _ = k_means(
        torch.from_numpy(np.ascontiguousarray(points)), count, iterations=ITERATIONS, seed=seed
    )
    scaled: np.ndarray = functional.normalize(found, dim=1).numpy()
    return scaled


def draw(blocks: Iterator[np.ndarray], share: float, seed: int) -> np.ndarray:
    """Take about a share of all rows of blocks (n, D), drawn at random, at length 1."""
    generator = np.random.default_rng(seed)
    found = list[np.ndarray]()
    for vectors in blocks:
        wanted = generator.random(len(vectors)) < share
        scaled, _ = unit(vectors[wanted])
        found.append(scaled)
    return np.concatenate(found)
