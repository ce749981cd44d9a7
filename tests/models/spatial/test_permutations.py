"""Orders of tiles: far from each other, and the same ones always."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from models.spatial.permutations import _all_permutations, distant_permutations


def distances(orders: Tensor) -> Tensor:
    return (orders[:, None] != orders[None]).sum(-1)


def test_all_permutations_are_those_of_itertools() -> None:
    expected = np.array(list(itertools.permutations(range(5))))
    assert np.array_equal(_all_permutations(5).T, expected)


def test_64_orders_of_nine_tiles_are_at_least_seven_tiles_apart() -> None:
    orders = distant_permutations(9, 64)
    assert torch.equal(orders.sort(dim=1).values, torch.arange(9).expand(64, 9))
    apart = distances(orders)[~torch.eye(64, dtype=torch.bool)]
    assert apart.min() == 7
    drawn = torch.stack(
        [torch.randperm(9, generator=torch.Generator().manual_seed(i)) for i in range(64)]
    )
    assert distances(drawn)[~torch.eye(64, dtype=torch.bool)].min() <= 4


def test_each_order_is_the_furthest_from_those_before_by_a_loop() -> None:
    every = torch.tensor(list(itertools.permutations(range(4))))
    chosen = [0]
    while len(chosen) < 6:
        apart = [(distances(every)[k][chosen].tolist()) for k in range(len(every))]
        chosen.append(max(range(len(every)), key=lambda k: (min(apart[k]), sum(apart[k]), -k)))
    assert torch.equal(distant_permutations(4, 6), every[chosen])
    # a longer choice begins with the shorter one
    assert torch.equal(distant_permutations(4, 3), every[chosen[:3]])


def test_more_orders_than_there_are_are_refused() -> None:
    with pytest.raises(ValueError, match="3 items have 6 permutations, 7 cannot be chosen"):
        distant_permutations(3, 7)
