"""Noise as targets: fixed points, one to a row, traded in a batch as well as can be."""

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch

from models.encoders.factory import EncoderConfig
from models.generative.nat import NAT, NATConfig, nearest_in_all
from models.registry import build_method
from tests.small_methods import NUM_ROWS, NUM_SAMPLES, SIZE, make_batch

VIT = EncoderConfig(name="vit_tiny_small", width=8)


def build(**settings: Any) -> NAT:
    method = build_method(NATConfig(projection_dim=8, **settings), VIT, NAT.default_views(SIZE), 0)
    assert isinstance(method, NAT)
    method.expect_rows(NUM_ROWS)
    return method


def test_the_assignment_is_the_best_of_all_permutations() -> None:
    nearness = np.random.default_rng(0).normal(size=(6, 6))
    best = max(permutations(range(6)), key=lambda order: nearness[range(6), list(order)].sum())
    assert tuple(nearest_in_all(nearness)) == best
    assert tuple(nearest_in_all(np.eye(6)[[2, 0, 1, 5, 4, 3]])) == (2, 0, 1, 5, 4, 3)


def test_targets_are_unit_vectors_of_their_number_alone_and_spread_over_the_sphere() -> None:
    method = build()
    points = method._points(torch.arange(2000, dtype=torch.int32))
    torch.testing.assert_close(points.norm(dim=1), torch.ones(2000))
    assert torch.equal(method._points(torch.tensor([7, 3])), points[[7, 3]])
    assert points.mean(0).norm() < 0.1
    torch.testing.assert_close(points.T @ points / 2000, torch.eye(8) / 8, atol=0.02, rtol=0)


def test_each_row_has_a_target_of_its_own_however_often_they_are_traded() -> None:
    method = build(reassign_every=1)
    first = method.targets.rows.clone()
    assert torch.equal(first[:, 0], torch.arange(NUM_ROWS, dtype=torch.int32))
    for step in range(3):
        out = method(make_batch("nat", epoch=step))
        method.after_step(step + 1, 3)
        assert out["traded"] > 0 or step > 0
    assert not torch.equal(method.targets.rows, first)
    assert torch.equal(method.targets.rows[:, 0].sort().values, first[:, 0])
    unseen = ~method.targets.filled
    assert unseen.sum() == NUM_ROWS - NUM_SAMPLES
    assert torch.equal(method.targets.rows[unseen], first[unseen])


def test_trading_lowers_the_loss_and_without_it_targets_stay() -> None:
    batch, never = make_batch("nat", epoch=1), build(reassign_every=2)
    kept = never(batch)
    assert kept["traded"].item() == 0
    never.after_step(1, 2)
    assert torch.equal(never.targets.rows[:, 0], torch.arange(NUM_ROWS, dtype=torch.int32))
    traded = build(reassign_every=1)(batch)
    assert traded["loss"] < kept["loss"] and traded["traded"] > 0.5


def test_loss_is_half_the_squared_distance_to_the_targets_by_a_loop() -> None:
    method, batch = build(), make_batch("nat")
    batch["valid"][3] = False
    out = method(batch)
    assert method._traded is not None
    points = method._points(method._traded[1])
    embedding = method.encoder(batch["views"]["global_crops"][0])
    z = torch.nn.functional.normalize(method.projection_head(embedding), dim=1)
    apart = [(z[i] - points[i]).square().sum() / 2 for i in range(NUM_SAMPLES) if i != 3]
    torch.testing.assert_close(out["loss"], torch.stack(apart).mean())


def test_who_is_invalid_or_there_twice_keeps_its_target() -> None:
    method, batch = build(), make_batch("nat")
    batch["valid"][0] = False
    batch["row"][5] = batch["row"][4]
    method(batch)
    assert method._traded is not None
    row, number = method._traded
    still = number == row.int()
    assert still[[0, 4, 5]].all() and not still.all()
    method.after_step(1, 2)
    assert len(method.targets.rows.unique()) == NUM_ROWS


def test_more_rows_get_new_targets_and_the_others_keep_theirs() -> None:
    method = build(reassign_every=1)
    method(make_batch("nat"))
    method.after_step(1, 2)
    before = method.targets.rows.clone()
    method.expect_rows(NUM_ROWS + 2)
    assert torch.equal(method.targets.rows[:NUM_ROWS], before)
    assert method.targets.rows[NUM_ROWS:, 0].tolist() == [NUM_ROWS, NUM_ROWS + 1]
    with pytest.raises(ValueError, match="max_rows"):
        NATConfig(max_rows=5).check_rows(6)
