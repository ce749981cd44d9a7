"""The losses of metric learning against pytorch-metric-learning, loops written from the papers, and
closed forms."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from pytorch_metric_learning.distances import DotProductSimilarity, LpDistance
from pytorch_metric_learning.losses import (
    ContrastiveLoss,
    LiftedStructureLoss,
    NPairsLoss,
    TripletMarginLoss,
)
from pytorch_metric_learning.miners import BatchHardMiner
from pytorch_metric_learning.reducers import MeanReducer
from torch import Tensor
from torch.nn import functional

from models.losses import (
    contrastive,
    info_nce,
    lifted_structured,
    n_pairs,
    nce,
    nt_xent,
    soft_nearest_neighbour,
    triplet,
)

Loss = Callable[..., Tensor]
TWO_VIEWS: dict[str, Loss] = {
    "nce": partial(nce, temperature=0.3),
    "contrastive": partial(contrastive, margin=1.2),
    "triplet_hard": partial(triplet, margin=0.5, mining="hard"),
    "triplet_semi_hard": partial(triplet, margin=0.5, mining="semi_hard"),
    "lifted_structured": partial(lifted_structured, margin=1.0),
    "n_pairs": partial(n_pairs, norm_weight=0.01),
    "soft_nearest_neighbour": partial(soft_nearest_neighbour, temperature=2.0),
    "info_nce": lambda z, valid=None: info_nce(z[0], z[1], temperature=0.3, valid=valid),
}
VALID = [True, False, True, True, False]


def views(num_samples: int = 5, dim: int = 4) -> Tensor:
    return torch.randn(2, num_samples, dim, generator=torch.Generator().manual_seed(0))


def labelled(z: Tensor) -> tuple[Tensor, Tensor]:
    return z.flatten(0, 1), torch.arange(z.shape[1]).repeat(2)


def unit(z: Tensor) -> Tensor:
    return functional.normalize(z.double(), dim=-1)


def anchors(num_samples: int, valid: list[bool] | None = None) -> list[tuple[int, int]]:
    return [(view, i) for view in range(2) for i in range(num_samples) if valid is None or valid[i]]


@pytest.mark.parametrize("margin", [0.4, 1.2, 2.0])
def test_contrastive_equals_the_reference(margin: float) -> None:
    reference = ContrastiveLoss(neg_margin=margin, distance=LpDistance(), reducer=MeanReducer())
    # The reference squares neither term: take its distances and square here.
    z, labels = labelled(views())
    distance = reference.distance(z)
    same = labels[:, None] == labels
    eye = torch.eye(len(labels), dtype=torch.bool)
    expected = (
        distance[same & ~eye].square().mean() + (margin - distance[~same]).relu().square().mean()
    )
    torch.testing.assert_close(contrastive(views(), margin=margin), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("margin", [0.2, 1.0])
def test_hard_triplets_equal_the_reference(margin: float) -> None:
    z, labels = labelled(views())
    distance = LpDistance(power=2)
    reference = TripletMarginLoss(margin=margin, distance=distance, reducer=MeanReducer())
    expected = reference(z, labels, BatchHardMiner(distance=distance)(z, labels))
    torch.testing.assert_close(
        triplet(views(), margin=margin, mining="hard"), expected, rtol=1e-5, atol=1e-6
    )


def test_semi_hard_triplets_equal_a_loop() -> None:
    z, margin, total = unit(views()), 0.5, 0.0
    kinds = set()
    for view, i in anchors(5):
        positive = (z[view, i] - z[1 - view, i]).square().sum()
        negatives = [
            (z[view, i] - z[other]).square().sum() for other in anchors(5) if other[1] != i
        ]
        farther = [negative for negative in negatives if negative > positive]
        chosen = min(farther) if farther else max(negatives)
        kinds.add(bool(farther))
        total += max(0.0, float(positive - chosen) + margin)
    assert kinds == {True, False}
    assert triplet(views(), margin=margin).item() == pytest.approx(total / 10, rel=1e-5)


def test_lifted_structured_equals_the_reference() -> None:
    reference = LiftedStructureLoss(
        neg_margin=1, pos_margin=0, distance=LpDistance(), reducer=MeanReducer()
    )
    expected = reference(*labelled(views()))
    torch.testing.assert_close(
        lifted_structured(views(), margin=1.0), expected, rtol=1e-5, atol=1e-6
    )


def test_n_pairs_equals_the_reference_and_penalises_length() -> None:
    z = views()
    reference = NPairsLoss(
        distance=DotProductSimilarity(normalize_embeddings=False), reducer=MeanReducer()
    )
    expected = reference(*labelled(z))
    torch.testing.assert_close(n_pairs(z, norm_weight=0), expected, rtol=1e-5, atol=1e-6)
    penalty = 0.1 * z.square().sum(-1).mean()
    torch.testing.assert_close(
        n_pairs(z, norm_weight=0.1), expected + penalty, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("valid", [[True] * 5, VALID])
def test_nce_equals_a_loop_over_decisions(valid: list[bool]) -> None:
    z, temperature = unit(views()), 0.3
    rows = [i for i in range(5) if valid[i]]
    score = {
        (v, i, j): float(z[v, i] @ z[1 - v, j]) / temperature
        for v in range(2)
        for i in rows
        for j in rows
    }
    partition = sum(math.exp(s) for s in score.values()) / (2 * len(rows))
    noise = (len(rows) - 1) / len(rows)
    total = 0.0
    for (_, i, j), s in score.items():
        model = math.exp(s) / partition
        real = model / (model + noise)
        total -= math.log(real if i == j else 1 - real)
    actual = nce(views(), temperature=temperature, valid=torch.tensor(valid))
    assert actual.item() == pytest.approx(total / (2 * len(rows)), rel=1e-5)


def test_info_nce_equals_a_loop() -> None:
    z, total = unit(views()), 0.0
    for i in range(5):
        scores = [math.exp(float(z[0, i] @ z[1, j]) / 0.3) for j in range(5)]
        total -= math.log(scores[i] / sum(scores))
    assert info_nce(views()[0], views()[1], temperature=0.3).item() == pytest.approx(
        total / 5, rel=1e-5
    )


def test_info_nce_counts_a_querys_own_decoy_and_no_others() -> None:
    z, total = unit(views()), 0.0
    decoys = torch.randn(5, 4, generator=torch.Generator().manual_seed(2))
    deceives = torch.tensor([True, False, True, True, False])
    samples = [i for i in range(5) if VALID[i]]
    for i in samples:
        scores = [math.exp(float(z[0, i] @ z[1, j]) / 0.3) for j in samples]
        if deceives[i]:
            scores.append(math.exp(float(z[0, i] @ unit(decoys)[i]) / 0.3))
        total -= math.log(math.exp(float(z[0, i] @ z[1, i]) / 0.3) / sum(scores))
    valid = torch.tensor(VALID)
    first, second = views()
    found = info_nce(first, second, temperature=0.3, valid=valid, decoys=(decoys, deceives))
    assert found.item() == pytest.approx(total / len(samples), rel=1e-5)
    none = info_nce(first, second, temperature=0.3, decoys=(decoys, torch.zeros(5).bool()))
    assert none.item() == info_nce(first, second, temperature=0.3).item()


def test_soft_nearest_neighbour_equals_a_loop() -> None:
    z, total = views().double(), 0.0
    for view, i in anchors(5):
        near = {
            other: math.exp(-float((z[view, i] - z[other]).square().sum()) / 2.0)
            for other in anchors(5)
        }
        total -= math.log(
            near[1 - view, i] / sum(value for other, value in near.items() if other != (view, i))
        )
    assert soft_nearest_neighbour(views(), temperature=2.0).item() == pytest.approx(
        total / 10, rel=1e-5
    )


def test_soft_nearest_neighbour_of_unit_vectors_is_nt_xent_at_half_the_temperature() -> None:
    z = functional.normalize(views(), dim=-1)
    torch.testing.assert_close(
        soft_nearest_neighbour(z, temperature=0.6), nt_xent(z, temperature=0.3)
    )


def test_losses_of_orthogonal_pairs_have_their_closed_forms() -> None:
    z = torch.eye(4).expand(2, -1, -1)  # positives coincide, negatives are the root of 2 apart
    root = math.sqrt(2)
    expected = {
        contrastive(z, margin=1.5): (1.5 - root) ** 2,
        triplet(z, margin=2.5, mining="hard"): 0.5,
        triplet(z, margin=2.5): 0.5,
        lifted_structured(z, margin=2.0): (math.log(12) + 2 - root) ** 2 / 2,
        n_pairs(z, norm_weight=0.5): math.log(math.e + 3) - 1 + 0.5,
        info_nce(z[0], z[1], temperature=0.5): math.log(math.e**2 + 3) - 2,
        soft_nearest_neighbour(z, temperature=2.0): math.log(1 + 6 / math.e),
    }
    for actual, value in expected.items():
        assert actual.item() == pytest.approx(value, rel=1e-5)


def test_equal_embeddings_are_chance() -> None:
    z = torch.ones(2, 8, 3)
    assert info_nce(z[0], z[1], temperature=0.1).item() == pytest.approx(math.log(8), rel=1e-5)
    # A candidate has 1 / 8 under the model; seven draws of noise, each with probability 1 / 8, make
    # 7 / 8.
    assert nce(z, temperature=0.1).item() == pytest.approx(
        math.log(8) + 7 * math.log(8 / 7), rel=1e-5
    )


@pytest.mark.parametrize("name", TWO_VIEWS)
def test_order_of_samples_and_rotation_do_not_matter(name: str) -> None:
    loss, z = TWO_VIEWS[name], views()
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1)))[0]
    for same in (z[:, [3, 0, 4, 2, 1]], z @ rotation):
        torch.testing.assert_close(loss(same), loss(z), rtol=1e-4, atol=1e-5)
    if name not in ("n_pairs", "info_nce"):
        torch.testing.assert_close(loss(z.flip(0)), loss(z))


@pytest.mark.parametrize("name", TWO_VIEWS)
def test_invalid_samples_are_neither_anchors_nor_negatives(name: str) -> None:
    loss = TWO_VIEWS[name]
    z = views().requires_grad_()
    masked = loss(z, valid=torch.tensor(VALID))
    masked.backward()
    kept = views()[:, [0, 2, 3]].requires_grad_()
    alone = loss(kept)
    alone.backward()
    torch.testing.assert_close(masked, alone, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(z.grad[:, [0, 2, 3]], kept.grad, rtol=1e-4, atol=1e-6)
    assert kept.grad.abs().max() > 1e-3
    assert not z.grad[:, [1, 4]].any()


@pytest.mark.parametrize("name", TWO_VIEWS)
def test_without_a_valid_sample_loss_and_gradient_are_zero_and_with_one_they_are_finite(
    name: str,
) -> None:
    z = views().requires_grad_()
    loss = TWO_VIEWS[name](z, valid=torch.zeros(5, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0 and torch.equal(z.grad, torch.zeros_like(z))
    alone = TWO_VIEWS[name](z, valid=torch.arange(5) == 2)
    alone.backward()
    assert alone.isfinite() and z.grad.isfinite().all()


@pytest.mark.parametrize("name", TWO_VIEWS)
def test_zero_and_coinciding_embeddings_have_finite_gradients(name: str) -> None:
    z = views()
    z[:, 2] = 0
    z[0, 1] = z[1, 1] = z[0, 3]
    z.requires_grad_()
    TWO_VIEWS[name](z).backward()
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("name", TWO_VIEWS)
def test_losses_are_float32_under_autocast(name: str) -> None:
    z = views(16, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = TWO_VIEWS[name](z)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, TWO_VIEWS[name](z))


def test_input_without_a_meaning_is_refused() -> None:
    z = views()
    for loss in TWO_VIEWS.values():
        with pytest.raises(ValueError, match=r"\(2?,? ?B, D\)"):
            loss(z.unsqueeze(0).expand(3, -1, -1, -1))
    for name, call in {
        "temperature": partial(nce, z, temperature=0.0),
        "margin": partial(triplet, z, margin=-1.0),
        "norm_weight": partial(n_pairs, z, norm_weight=-1.0),
        "at least 2 samples": partial(contrastive, z[:, :1], margin=1.0),
        "queries and keys": partial(info_nce, z[0], z[1, :3], temperature=1.0),
    }.items():
        with pytest.raises(ValueError, match=name):
            call()
