"""SwAV: Sinkhorn's assignment, prototypes that wait and keep their length, and the queue."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from augment.ops import ColorJitter
from models.clustering.sinkhorn import sinkhorn
from models.clustering.swav import SwAV, SwAVConfig
from models.registry import build_method
from tests.small_methods import ENCODERS, NUM_SAMPLES, SIZE, make_batch


def build(**settings: float) -> SwAV:
    config = SwAVConfig(**{"hidden_dim": 32, "projection_dim": 16, "num_prototypes": 6} | settings)  # type: ignore[arg-type]
    method = build_method(config, ENCODERS[0], SwAV.default_views(SIZE), 0)
    assert isinstance(method, SwAV)
    return method


def scores(num_samples: int = 8, num_clusters: int = 4) -> Tensor:
    return torch.rand(num_samples, num_clusters, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_views_are_multi_crop_with_the_papers_scales_and_simclrs_colours() -> None:
    views = SwAV.default_views(224).groups
    assert [(group.count, group.size, group.scale) for group in views.values()] == [
        (2, None, (0.14, 1.0)),
        (6, 96, (0.05, 0.14)),
    ]
    assert {group.color_jitter for group in views.values()} == {ColorJitter()}


def test_sinkhorn_equals_the_papers_loop() -> None:
    shares = [[math.exp(float(score) / 0.5) for score in row] for row in scores()]
    for _ in range(3):
        columns = [sum(row[k] for row in shares) for k in range(4)]
        shares = [[value / columns[k] / 4 for k, value in enumerate(row)] for row in shares]
        shares = [[value / sum(row) / 8 for value in row] for row in shares]
    actual = sinkhorn(scores(), torch.ones(8), epsilon=0.5, iterations=3)
    torch.testing.assert_close(actual, torch.tensor(shares) * 8, rtol=1e-4, atol=1e-6)


def test_clusters_get_equal_shares_however_lopsided_the_scores() -> None:
    lopsided = scores() + torch.tensor([5.0, 0, 0, 0])
    assignment = sinkhorn(lopsided, torch.ones(8), epsilon=0.5, iterations=200)
    torch.testing.assert_close(assignment.sum(1), torch.ones(8))
    torch.testing.assert_close(assignment.sum(0), torch.full((4,), 2.0), rtol=1e-3, atol=1e-3)


def test_a_sample_of_weight_zero_changes_no_other_and_two_halves_are_one() -> None:
    alone = sinkhorn(scores(), torch.ones(8), epsilon=0.1, iterations=3)
    extra = torch.cat([scores(), torch.full((2, 4), 50.0)])
    weight = torch.tensor([1.0] * 8 + [0.0] * 2)
    torch.testing.assert_close(sinkhorn(extra, weight, epsilon=0.1, iterations=3)[:8], alone)
    doubled = torch.cat([scores(), scores()[:3]])
    weight = torch.tensor([0.5] * 3 + [1.0] * 5 + [0.5] * 3)
    torch.testing.assert_close(sinkhorn(doubled, weight, epsilon=0.1, iterations=3)[:8], alone)


def test_sinkhorn_balances_each_group_of_samples_by_itself() -> None:
    groups = torch.stack([scores(), 3 * scores().flip(0)])
    weight = torch.tensor([1.0, 0, 1, 1, 2, 1, 1, 1])
    both = sinkhorn(groups, weight, epsilon=0.5, iterations=3)
    for group, found in zip(groups, both, strict=True):
        alone = sinkhorn(group, weight, epsilon=0.5, iterations=3)
        torch.testing.assert_close(found[weight > 0], alone[weight > 0])


def test_sinkhorn_is_finite_for_a_tiny_epsilon_and_for_nothing_at_all() -> None:
    for weight in (torch.ones(8), torch.zeros(8)):
        assert sinkhorn(scores(), weight, epsilon=1e-3, iterations=3).isfinite().all()


def test_loss_predicts_each_large_crops_assignment_from_every_other_crop() -> None:
    method, batch = build(temperature=0.2), make_batch("swav")
    large, small = batch["views"]["global_crops"], batch["views"]["local_crops"]
    embedding = torch.cat(
        [method.encoder(large.flatten(0, 1)), method.encoder(small.flatten(0, 1))]
    )
    z = functional.normalize(method.projection_head(embedding), dim=1).unflatten(
        0, (8, NUM_SAMPLES)
    )
    losses = []
    for target in range(2):
        q = sinkhorn(
            z[target] @ method.prototypes.T, torch.ones(NUM_SAMPLES), epsilon=0.05, iterations=3
        ).detach()
        others = [view for view in range(8) if view != target]
        losses += [
            functional.cross_entropy(z[view] @ method.prototypes.T / 0.2, q) for view in others
        ]
    torch.testing.assert_close(
        method(batch)["loss"], torch.stack(losses).mean(), rtol=1e-4, atol=1e-5
    )


def test_prototypes_wait_then_learn_and_keep_length_one() -> None:
    method, batch = build(freeze_fraction=0.5), make_batch("swav")
    method(batch)["loss"].backward()
    assert method.prototypes.grad is not None  # as data-parallel training waits for it
    method.before_step(4, 10)
    assert method.prototypes.grad is None
    method.after_step(5, 10)
    method(batch)["loss"].backward()
    method.before_step(5, 10)
    assert method.prototypes.grad.any()
    with torch.no_grad():
        method.prototypes.mul_(3)
    method.after_step(6, 10)
    torch.testing.assert_close(method.prototypes.norm(dim=1), torch.ones(6))


def test_the_queue_takes_part_from_its_start_on() -> None:
    settings = {"queue_size": 24, "queue_start_fraction": 0.5, "freeze_fraction": 0.0}
    method, without, batch = build(**settings), build(freeze_fraction=0.0), make_batch("swav")
    without.load_state_dict(method.state_dict(), strict=False)
    for step in range(1, 4):
        assert method(batch)["loss"].item() == without(batch)["loss"].item()
        method(make_batch("swav", epoch=step))
        method.after_step(step, 10), without.after_step(step, 10)
    assert method.queue is not None and method.queue.filled.all()
    method.after_step(5, 10), without.after_step(5, 10)
    assert method(batch)["loss"].item() != without(batch)["loss"].item()


def test_a_queue_that_holds_the_batch_itself_changes_no_assignment() -> None:
    settings = {"queue_size": NUM_SAMPLES, "queue_start_fraction": 0.0, "freeze_fraction": 0.0}
    method, batch = build(**settings), make_batch("swav")
    expected = method(batch)["loss"]
    method.after_step(1, 10)
    torch.testing.assert_close(method(batch)["loss"], expected)
