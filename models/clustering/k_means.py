"""Whitened features and their clusters (DeepCluster, arXiv:1807.05520, section 3.3; k-means by
faiss)."""

import numpy as np
import torch
from torch import Tensor

_CHUNK_ROWS = 1 << 16
# of the largest; directions below hold rounding only, which whitening would blow up
_LEAST_VARIANCE = 1e-6


def pca_whitening(features: Tensor, num_directions: int) -> tuple[Tensor, Tensor]:
    """Find what turns features into uncorrelated ones of variance 1 along their main directions.

    Args:
        features: (N, D) float32, N >= 2.
        num_directions: P, at most D. Where the features have fewer, the others are mapped to 0.

    Returns:
        The mean (D,) and the map (D, P), float32: `(features - mean) @ map` is whitened.
    """
    mean = sum(chunk.double().sum(0) for chunk in features.split(_CHUNK_ROWS)) / len(features)
    centred = (chunk.double() - mean for chunk in features.split(_CHUNK_ROWS))
    covariance = sum(chunk.T @ chunk for chunk in centred) / len(features)
    assert isinstance(mean, Tensor) and isinstance(covariance, Tensor)
    variance, directions = torch.linalg.eigh(covariance)  # ascending
    variance = variance.flip(0)[:num_directions]
    directions = directions.flip(1)[:, :num_directions]
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    # a direction's sign is arbitrary, and would differ from machine to machine
    directions = directions * largest.sign()
    scale = variance.clamp(min=torch.finfo(variance.dtype).tiny).rsqrt()
    scale = scale.where(variance > _LEAST_VARIANCE * variance[0], 0.0)
    return mean.float(), (directions * scale).float()


def k_means(
    points: np.ndarray, num_clusters: int, *, iterations: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cluster points; no cluster is left empty.

    Args:
        points: (N, P) float32, contiguous.
        num_clusters: K, 1 to N.
        iterations: Rounds of assigning and averaging.
        seed: Of the points begun with and of the repairs.

    Returns:
        Centroids (K, P) float32 and each point's cluster (N,) int64. The same for the same input on
        the same machine with as many threads as torch has.
    """
    import faiss  # here, as only this needs it

    faiss.omp_set_num_threads(torch.get_num_threads())
    # All points and not a sample of them, as the authors; and no warning where there are few a
    # cluster.
    options = {"max_points_per_centroid": len(points), "min_points_per_centroid": 1}
    found = faiss.Kmeans(points.shape[1], num_clusters, niter=iterations, seed=seed, **options)
    found.train(points)
    assert found.centroids is not None and found.index is not None
    label = found.index.search(points, 1)[1][:, 0]
    return fill_empty_clusters(points, found.centroids.copy(), label, seed=seed)


def fill_empty_clusters(
    points: np.ndarray, centroids: np.ndarray, label: np.ndarray, *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Give each empty cluster half of a random other one, drawn in proportion to its size.

    The authors put the empty cluster's centroid beside the other's and assign that one's points
    anew, which is cutting it by a plane; here the plane is the median, so that neither half is
    empty.

    Args:
        points: (N, P) float32.
        centroids: (K, P) float32, K <= N; written to.
        label: (N,) int64, each point's cluster; written to.
        seed: Of the draws.

    Returns:
        Centroids and clusters, those of clusters that were cut being the halves'.
    """
    generator = np.random.default_rng(seed)
    sizes = np.bincount(label, minlength=len(centroids))
    for empty in np.flatnonzero(sizes == 0):
        donors = np.where(sizes > 1, sizes, 0)
        donor = generator.choice(len(sizes), p=donors / donors.sum())
        members = np.flatnonzero(label == donor)
        side = points[members] @ generator.standard_normal(points.shape[1])
        moved = members[np.argsort(side, kind="stable")[len(members) // 2 :]]
        label[moved] = empty
        for cluster in (donor, empty):
            centroids[cluster] = points[label == cluster].mean(0)
            sizes[cluster] = (label == cluster).sum()
    return centroids, label


def mutual_information(first: Tensor, second: Tensor) -> Tensor:
    """Compare two clusterings of the same points: mutual information over the geometric mean of the
    entropies.

    Args:
        first: (N,) int64, each point's cluster, N >= 1.
        second: (N,) int64.

    Returns:
        A float32 scalar from 0, independent, to 1, the same clusters by whatever names; 1 where
        both have one cluster.
    """

    def entropy(code: Tensor) -> Tensor:
        counts: Tensor = torch.unique(code, return_counts=True)[1]
        share = counts.double() / len(code)
        return -(share * share.log()).sum()

    of_first, of_second, of_both = map(
        entropy, (first, second, first * (second.max() + 1) + second)
    )
    least = torch.finfo(of_both.dtype).eps
    shared: Tensor = (of_first + of_second - of_both + least) / (
        (of_first * of_second).sqrt() + least
    )
    return shared.clamp(0, 1).float()
