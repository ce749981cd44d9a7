import numpy as np
import pytest
import torch

from models import drift


def gaussian(count: int, centre: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 8, generator=generator) + centre * torch.eye(8)[0]


def test_sets_of_one_distribution_are_near_and_of_two_far_apart() -> None:
    old = gaussian(200, 3, 0)
    same = drift.distance(old, gaussian(150, 3, 1), permutations=200)
    other = drift.distance(old, gaussian(150, -3, 2), permutations=200)
    assert same.mmd < 0.1 and same.p_value > 0.05
    assert other.mmd > 0.5 and other.p_value == pytest.approx(1 / 201)
    longer = drift.distance(7 * old, gaussian(150, -3, 2), permutations=20)
    assert longer.mmd == pytest.approx(other.mmd, abs=1e-5)  # directions count


def test_the_squared_discrepancy_is_that_of_a_naive_loop() -> None:
    old, new = gaussian(7, 0, 0), gaussian(5, 2, 1)
    both = torch.nn.functional.normalize(torch.cat([old, new]), dim=1).double()
    squares = torch.cdist(both, both).square()
    width = squares[:7, :7][~torch.eye(7, dtype=torch.bool)].median()
    kernel = (-squares / width).exp()
    within_old = sum(kernel[i, j] for i in range(7) for j in range(7) if i != j) / 42
    within_new = sum(kernel[i, j] for i in range(7, 12) for j in range(7, 12) if i != j) / 20
    across = kernel[:7, 7:].mean()
    expected = (within_old + within_new - 2 * across).sqrt()
    assert drift.distance(old, new, permutations=1).mmd == pytest.approx(float(expected), abs=1e-4)


def test_an_occupancy_shifts_by_the_share_that_must_move() -> None:
    before = drift.occupancy(np.array([0, 0, 1, 1]), 3)
    after = drift.occupancy(np.array([0, 1, 2, 2]), 3)
    assert before.tolist() == [0.5, 0.5, 0.0]
    assert drift.shift(before, after) == pytest.approx(0.5)
    assert drift.shift(before, before) == 0
    with pytest.raises(ValueError, match="at least two"):
        drift.distance(torch.ones(1, 3), torch.ones(4, 3))
