"""DeepCluster: when clusters are made, of what, and what the loss makes of them."""

import copy
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.clustering.deepcluster import DeepCluster, DeepClusterConfig
from models.clustering.k_means import pca_whitening
from models.method import Batch
from models.registry import build_method
from tests.small_methods import ENCODERS, NUM_ROWS, NUM_SAMPLES, SIZE, make_batch

NAME = "deepcluster"


def build(num_rows: int = NUM_ROWS, seed: int = 0, **settings: int) -> DeepCluster:
    config = DeepClusterConfig(
        **{"num_clusters": 3, "pca_dim": 4, "first_rows": NUM_SAMPLES} | settings
    )  # type: ignore[arg-type]
    method = build_method(config, ENCODERS[0], DeepCluster.default_views(SIZE), seed)
    assert isinstance(method, DeepCluster)
    method.expect_rows(num_rows)
    return method


def cut(batch: Batch, start: int, stop: int) -> Batch:
    parts = {key: value[start:stop] for key, value in batch.items() if key != "views"}  # type: ignore[index]
    views = {"global_crops": batch["views"]["global_crops"][:, start:stop]}
    return Batch(views=views, **parts)  # type: ignore[typeddict-item]


def straddling(num_old: int) -> Batch:
    """A batch whose first samples are the last of epoch 0, the others the first of epoch 1."""
    batch = make_batch(NAME)
    batch["epoch"][num_old:] = 1
    return batch


def step(method: DeepCluster, batch: Batch, number: int = 1) -> dict[str, Tensor]:
    out = method(batch)
    out["loss"].backward()
    method.after_step(number, 10)
    return out


def labels(method: DeepCluster) -> dict[int, int]:
    """Cluster of each row that the last clustering has seen."""
    filled = method.labels.filled.nonzero().squeeze(1).tolist()
    return {row: int(method.labels.rows[row, 0]) for row in filled}


def test_nothing_is_learnt_until_so_many_samples_are_kept() -> None:
    method, batch = build(first_rows=9), make_batch(NAME)
    out = step(method, cut(batch, 0, 8))
    assert out["loss"].item() == 0 and int(method.clusterings) == 0
    assert all(p.grad is not None and not p.grad.any() for p in method.parameters())
    step(method, cut(batch, 8, 12), 2)
    assert int(method.clusterings) == 1 and set(labels(method)) == set(batch["row"].tolist())
    assert method(batch)["loss"].item() > 0


def test_the_end_of_the_first_epoch_is_soon_enough() -> None:
    method = build(first_rows=1000)
    step(method, cut(make_batch(NAME), 0, 6))
    assert int(method.clusterings) == 0
    step(method, cut(make_batch(NAME, epoch=1), 6, 9), 2)
    assert int(method.clusterings) == 1 and len(labels(method)) == 9


def test_clusters_are_those_of_the_whitened_features_of_the_pass() -> None:
    method, batch = build(first_rows=11), make_batch(NAME)
    batch["valid"][5] = False
    features = method.encoder(batch["views"]["global_crops"][0]).detach()[batch["valid"]]
    step(method, batch)
    mean, whitening = pca_whitening(features, 4)
    points = functional.normalize((features - mean) @ whitening, dim=1)
    nearest = torch.cdist(points, method.centroids).argmin(1)
    rows = batch["row"][batch["valid"]].tolist()
    assert labels(method) == dict(zip(rows, nearest.tolist(), strict=True))
    assert set(nearest.tolist()) == {0, 1, 2}


def test_loss_weighs_every_cluster_alike_by_a_loop() -> None:
    method, batch = build(), make_batch(NAME)
    step(method, batch)
    batch["valid"][2] = False
    clusters = labels(method)
    sizes = [list(clusters.values()).count(k) for k in range(3)]
    log_p = (
        method.classifier(method.encoder(batch["views"]["global_crops"][0])).detach().log_softmax(1)
    )
    losses = []
    for index, row in enumerate(batch["row"].tolist()):
        if index != 2:
            k = clusters[row]
            losses.append(-float(log_p[index, k]) * NUM_SAMPLES / (3 * sizes[k]))
    assert method(batch)["loss"].item() == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_at_chance_the_loss_over_the_corpus_is_the_log_of_the_clusters() -> None:
    method, batch = build(), make_batch(NAME)
    step(method, batch)
    torch.nn.init.zeros_(method.classifier.weight)
    assert method(batch)["loss"].item() == pytest.approx(math.log(3), rel=1e-5)


def test_a_later_epoch_clusters_anew_after_the_first_step_that_holds_a_sample_of_it() -> None:
    method, batch = build(), make_batch(NAME)
    step(method, batch)
    step(method, cut(straddling(12), 0, 6), 2)
    assert int(method.clusterings) == 1  # the epoch goes on
    before = method.classifier.weight.clone()
    out = step(method, cut(straddling(10), 6, 12), 3)  # the last two are of epoch 1
    assert int(method.clusterings) == 2 and int(method.epoch) == 1
    assert out["stability"].item() == 0 and 0 < method.stability.item() <= 1
    assert not torch.equal(method.classifier.weight, before) and not method.classifier.bias.any()
    assert set(labels(method)) == set(batch["row"].tolist())
    # Of the pass that has begun, the bank holds what the step saw of it and no more.
    assert method.features.filled.nonzero().squeeze(1).tolist() == sorted(
        batch["row"][10:].tolist()
    )
    step(method, cut(make_batch(NAME, epoch=1), 0, 6), 4)
    assert int(method.clusterings) == 2


def test_a_sample_that_a_pass_did_not_see_leaves_the_next_clustering() -> None:
    method, batch = build(), make_batch(NAME)
    step(method, batch)
    gone = make_batch(NAME, epoch=1)
    gone["valid"][:3] = False  # deleted, say, or no longer readable
    step(method, gone, 2)
    assert len(labels(method)) == NUM_SAMPLES  # the clustering of epoch 0
    step(method, cut(make_batch(NAME, epoch=2), 3, 12), 3)
    assert set(labels(method)) == set(batch["row"][3:].tolist())


def test_a_sample_without_a_cluster_is_given_the_nearest_one() -> None:
    method, batch = build(), make_batch(NAME)
    step(method, batch)
    features = method.encoder(batch["views"]["global_crops"][0]).detach()
    points = functional.normalize((features - method.mean) @ method.whitening, dim=1)
    nearest = torch.cdist(points, method.centroids).argmin(1)
    unknown = torch.full_like(
        batch["row"], next(r for r in range(NUM_ROWS) if r not in labels(method))
    )
    assert torch.equal(method._label(features, unknown), nearest)
    assert method._label(features, batch["row"]).tolist() == [
        labels(method)[row] for row in batch["row"].tolist()
    ]


def test_fewer_samples_than_clusters_leave_the_others_unused() -> None:
    method, batch = build(num_clusters=8, first_rows=5), make_batch(NAME)
    step(method, cut(batch, 0, 5))
    assert sorted(labels(method).values()) == [0, 1, 2, 3, 4]
    assert method.cluster_weight.tolist() == [1.0] * 5 + [0.0] * 3
    out = method(batch)
    assert (
        out["loss"].isfinite()
        and int(method._label(torch.randn(50, 64), torch.full((50,), 19)).max()) < 5
    )


def test_a_run_resumed_in_the_middle_of_an_epoch_goes_on_exactly() -> None:
    def later(method: DeepCluster) -> list[float]:
        batches = [
            cut(straddling(10), 6, 12),
            cut(make_batch(NAME, epoch=1), 0, 6),
            cut(make_batch(NAME, epoch=2), 0, 9),
        ]
        return [
            step(method, batch, 3 + number)["loss"].item() for number, batch in enumerate(batches)
        ]

    method, resumed = build(), build(0, seed=1)
    step(method, make_batch(NAME))
    step(method, cut(make_batch(NAME), 0, 6), 2)
    resumed.load_state_dict(copy.deepcopy(method.state_dict()))
    resumed.seed = method.seed
    for run in (method, resumed):
        run.expect_rows(NUM_ROWS + 5)  # the manifest has grown
    assert later(resumed) == later(method)
    assert int(method.clusterings) == 3
    assert all(
        torch.equal(a, b)
        for a, b in zip(method.state_dict().values(), resumed.state_dict().values(), strict=True)
    )


def test_a_corpus_that_is_too_large_or_too_small_is_refused() -> None:
    config = DeepClusterConfig(num_clusters=20, max_rows=50)
    config.check_rows(20)
    config.check_rows(50)
    with pytest.raises(ValueError, match=r"51 rows .*method\.max_rows=50"):
        config.check_rows(51)
    with pytest.raises(
        ValueError, match=r"method\.num_clusters must be at most the 19 samples, got 20"
    ):
        config.check_rows(19)
