import math

import faiss
import pytest
import torch
from torch import Tensor

from models.clustering import k_means as module
from models.clustering.k_means import (
    fill_empty_clusters,
    k_means,
    mutual_information,
    pca_whitening,
)


def blobs(num_points: int, num_blobs: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    centres = 10 * torch.randn(num_blobs, 4, generator=generator)
    label = torch.randint(num_blobs, (num_points,), generator=generator)
    return centres[label] + 0.1 * torch.randn(num_points, 4, generator=generator), label


def test_every_point_is_in_the_nearest_cluster_and_centroids_are_means(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_LIKENESSES", 100)  # in many parts
    points, _ = blobs(300)
    centroids, found = k_means(points, 5, iterations=50, seed=1)
    assert torch.equal(found, torch.cdist(points, centroids).argmin(1))
    for cluster in range(5):
        mean = points[found == cluster].mean(0)
        torch.testing.assert_close(centroids[cluster], mean, rtol=1e-3, atol=1e-3)


def test_points_lie_as_near_to_their_centroids_as_by_faiss() -> None:
    points = torch.randn(2000, 8, generator=torch.Generator().manual_seed(0))
    other = faiss.Kmeans(8, 20, niter=20, seed=0)
    other.train(points.numpy())
    theirs = other.index.search(points.numpy(), 1)[0].mean()
    centroids, found = k_means(points, 20, iterations=20, seed=0)
    ours = (points - centroids[found]).square().sum(1).mean().item()
    assert ours < 1.02 * theirs


def test_groups_far_apart_are_found() -> None:
    points, label = blobs(300, num_blobs=2)
    _, found = k_means(points, 2, iterations=20, seed=1)
    assert len(set(zip(label.tolist(), found.tolist(), strict=True))) == 2


def test_the_same_seed_gives_the_same_clusters() -> None:
    points, _ = blobs(300)
    first, again = (k_means(points, 40, iterations=5, seed=3) for _ in range(2))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[1], k_means(points, 40, iterations=5, seed=4)[1])


@pytest.mark.parametrize("num_clusters", [1, 30, 40])
def test_no_cluster_is_empty_even_among_equal_points(num_clusters: int) -> None:
    points = torch.zeros(40, 4)
    points[:3] = 1
    _, label = k_means(points, num_clusters, iterations=5, seed=0)
    assert torch.bincount(label, minlength=num_clusters).min() >= 1 and len(label) == 40


def test_an_empty_cluster_gets_half_of_another_and_the_rest_stays() -> None:
    points, label = blobs(300, num_blobs=3)
    before = label.clone()
    means = [points[label == i].mean(0) for i in range(3)]
    centroids = torch.stack([*means, torch.zeros(4)])
    centroids, label = fill_empty_clusters(points, centroids, label, seed=2)
    (donor,) = set(before[label == 3].tolist())
    moved = int((label == 3).sum())
    assert moved in (int((before == donor).sum()) // 2, -(-int((before == donor).sum()) // 2))
    assert torch.equal(label[before != donor], before[before != donor])
    for cluster in (donor, 3):
        torch.testing.assert_close(centroids[cluster], points[label == cluster].mean(0))


def test_large_clusters_give_to_empty_ones_more_often() -> None:
    points = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    donors = 0
    for seed in range(40):
        label = torch.tensor([0] * 90 + [1] * 10)
        label = fill_empty_clusters(points, torch.zeros(3, 2), label, seed=seed)[1]
        donors += int(torch.bincount(label)[0] < 90)
    assert 30 <= donors < 40


def test_whitened_features_are_uncorrelated_with_variance_one_along_the_main_directions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_CHUNK_ROWS", 64)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(500, 6, generator=generator) @ torch.randn(6, 6, generator=generator) + 5
    mean, whitening = pca_whitening(features, 4)
    points = (features - mean) @ whitening
    torch.testing.assert_close(mean, features.mean(0))
    torch.testing.assert_close(points.T @ points / 500, torch.eye(4), rtol=0, atol=1e-4)
    # Along the four directions of largest variance, by the singular values.
    left, _, _ = torch.linalg.svd(features - features.mean(0), full_matrices=False)
    torch.testing.assert_close(
        (left[:, :4].T @ points).norm(dim=0), points.norm(dim=0), rtol=1e-3, atol=0
    )


def test_directions_in_which_nothing_varies_are_left_out() -> None:
    features = torch.randn(50, 2, generator=torch.Generator().manual_seed(0)) @ torch.ones(2, 5)
    mean, whitening = pca_whitening(features, 3)
    points = (features - mean) @ whitening
    assert points[:, 0].var() > 0.9 and not points[:, 1:].any()
    constant = pca_whitening(torch.ones(10, 3), 2)[1]
    assert not constant.any()


def test_mutual_information_is_one_for_renamed_clusters_and_zero_for_independent_ones() -> None:
    first = torch.arange(12) // 4  # three clusters of four
    assert mutual_information(first, (first + 1) % 3).item() == pytest.approx(1)
    assert mutual_information(first, torch.arange(12) % 4).item() == pytest.approx(0, abs=1e-6)
    assert (
        mutual_information(
            torch.zeros(5, dtype=torch.int64), torch.zeros(5, dtype=torch.int64)
        ).item()
        == 1
    )


def test_mutual_information_of_a_cluster_cut_in_two() -> None:
    halves, quarters = torch.arange(8) // 4, torch.arange(8) // 2
    # The finer one tells the coarser: their information is its entropy, log 2.
    expected = math.log(2) / math.sqrt(math.log(2) * math.log(4))
    assert mutual_information(halves, quarters).item() == pytest.approx(expected, rel=1e-5)
    assert mutual_information(quarters, halves).item() == pytest.approx(expected, rel=1e-5)
