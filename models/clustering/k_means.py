"""Whitened features and their clusters (DeepCluster, arXiv:1807.05520, section 3.3).

Lloyd's rounds on the features' own device. Every worker has all points and compares its share of
them with the centroids, so a clustering takes a W-th of the time on W workers: 1.28 million points
of 256 features and 10 000 centroids are 6.6e12 multiplications a round, half an hour on one CPU
core for 20 rounds, seconds on GPUs.
"""

import torch
from torch import Tensor

from models.collectives import all_reduce_sum, my_share

_CHUNK_ROWS = 1 << 16
_LIKENESSES = 1 << 26  # of points and centroids, at a time
# of the largest; directions below hold rounding only, which whitening would blow up
_LEAST_VARIANCE = 1e-6


def pca_whitening(features: Tensor, num_directions: int) -> tuple[Tensor, Tensor]:
    """Find what turns features into uncorrelated ones of variance 1 along their main directions.

    Args:
        features: (N, D) float, N >= 2, the same on every worker; all workers must call.
        num_directions: P, at most D. Where the features have fewer, the others are mapped to 0.

    Returns:
        The mean (D,) and the map (D, P), float32: `(features - mean) @ map` is whitened.
    """
    mine = features[my_share(len(features))].split(_CHUNK_ROWS)
    total = features.new_zeros(features.shape[1], dtype=torch.float64)
    for chunk in mine:
        total += chunk.double().sum(0)
    mean = all_reduce_sum(total) / len(features)
    products = torch.zeros_like(torch.outer(mean, mean))
    for chunk in mine:
        centred = chunk.double() - mean
        products += centred.T @ centred
    covariance = all_reduce_sum(products) / len(features)
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
    points: Tensor, num_clusters: int, *, iterations: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Cluster points; no cluster is left empty.

    Args:
        points: (N, P) float, the same on every worker; all workers must call.
        num_clusters: K, 1 to N.
        iterations: Rounds of assigning and averaging.
        seed: Of the points begun with and of the repairs.

    Returns:
        Centroids (K, P) and each point's cluster (N,) int64, the same on every worker, on the
        points' device.
    """
    generator = torch.Generator().manual_seed(seed)
    begun = torch.randperm(len(points), generator=generator)[:num_clusters]
    centroids = points[begun.to(points.device)]
    mine = points[my_share(len(points))]
    for _ in range(iterations):
        label = nearest(mine, centroids)
        sums = points.new_zeros(num_clusters, points.shape[1], dtype=torch.float64)
        sums.index_add_(0, label, mine.double())
        sizes = torch.bincount(label, minlength=num_clusters)
        sums, sizes = all_reduce_sum(sums), all_reduce_sum(sizes)
        means = (sums / sizes.clamp(min=1).unsqueeze(1)).to(points.dtype)
        centroids = _revived(means, sizes)
    label = torch.zeros(len(points), dtype=torch.int64, device=points.device)
    label[my_share(len(points))] = nearest(mine, centroids)
    return fill_empty_clusters(points, centroids, all_reduce_sum(label), seed=seed)


def nearest(points: Tensor, centroids: Tensor) -> Tensor:
    """Return the centroid nearest to each point, (N,) int64; the first of equally near ones."""
    squared = centroids.square().sum(1)
    rows = max(1, _LIKENESSES // len(centroids))
    found = [(squared - 2 * part @ centroids.T).argmin(1) for part in points.split(rows)]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64, device=points.device)


def _revived(centroids: Tensor, sizes: Tensor) -> Tensor:
    """Put the centroids of empty clusters beside those of the largest ones, to share their points.

    As faiss does between rounds, which both of a pair leave by the same small step.
    """
    empty = (sizes == 0).nonzero().squeeze(1)
    largest = sizes.argsort(descending=True, stable=True)[: len(empty)]
    empty = empty[: len(largest)]
    step = torch.ones_like(centroids[0])
    step[1::2] = -1
    step = step / 1024
    revived = centroids.clone()
    revived[empty] = centroids[largest] * (1 + step)
    revived[largest] = centroids[largest] * (1 - step)
    return revived


def fill_empty_clusters(
    points: Tensor, centroids: Tensor, label: Tensor, *, seed: int
) -> tuple[Tensor, Tensor]:
    """Give each empty cluster half of a random other one, drawn in proportion to its size.

    The authors put the empty cluster's centroid beside the other's and assign that one's points
    anew, which is cutting it by a plane; here the plane is the median, so that neither half is
    empty.

    Args:
        points: (N, P) float.
        centroids: (K, P), K <= N; written to.
        label: (N,) int64, each point's cluster; written to.
        seed: Of the draws.

    Returns:
        Centroids and clusters, those of clusters that were cut being the halves'.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.bincount(label, minlength=len(centroids)).cpu()
    for empty in (sizes == 0).nonzero().squeeze(1).tolist():
        share = sizes.where(sizes > 1, 0).double()
        donor = int(torch.multinomial(share, 1, generator=generator))
        members = (label == donor).nonzero().squeeze(1)
        direction = torch.randn(points.shape[1], generator=generator).to(points)
        side = points[members] @ direction
        moved = members[side.argsort(stable=True)[len(members) // 2 :]]
        label[moved] = empty
        for cluster in (donor, empty):
            centroids[cluster] = points[label == cluster].mean(0)
            sizes[cluster] = int((label == cluster).sum())
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
