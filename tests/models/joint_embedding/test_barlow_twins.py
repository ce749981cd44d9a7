"""Barlow Twins' loss against numpy, a closed form and a symmetry."""

import numpy as np
import pytest
import torch
from torch import Tensor

from models.joint_embedding.barlow_twins import barlow_twins_loss


def projections(num_samples: int = 9, dim: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(num_samples, dim, generator=generator) * torch.arange(1.0, dim + 1) + 3
    return first, first + torch.randn(num_samples, dim, generator=generator)


@pytest.mark.parametrize(
    "valid", [[True] * 9, [True, False, True, True, True, False, True, True, True]]
)
def test_loss_is_that_of_numpys_correlations(valid: list[bool]) -> None:
    first, second = projections()
    mask = torch.tensor(valid)
    correlation = np.corrcoef(first[mask].numpy().T, second[mask].numpy().T)[:5, 5:]
    diagonal = np.diag(correlation)
    expected = ((1 - diagonal) ** 2).sum() + 0.1 * ((correlation**2).sum() - (diagonal**2).sum())
    assert barlow_twins_loss(
        first, second, redundancy_weight=0.1, valid=mask
    ).item() == pytest.approx(expected, rel=1e-4)


def test_equal_views_with_uncorrelated_features_have_no_loss() -> None:
    z = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * torch.tensor(
        [1.0, 20, 3]
    )
    loss = barlow_twins_loss(z, z, redundancy_weight=1.0, valid=torch.ones(4, dtype=torch.bool))
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_features_that_say_the_same_cost_their_weight() -> None:
    z = torch.tensor([1.0, -1, 1, -1])[:, None].expand(-1, 3)
    loss = barlow_twins_loss(z, z, redundancy_weight=0.5, valid=torch.ones(4, dtype=torch.bool))
    assert loss.item() == pytest.approx(0.5 * 6, rel=1e-4)


def test_order_of_views_and_samples_and_each_features_scale_and_shift_do_not_matter() -> None:
    first, second = projections()
    valid = torch.ones(9, dtype=torch.bool)

    def loss(one: Tensor, other: Tensor) -> Tensor:
        return barlow_twins_loss(one, other, redundancy_weight=0.1, valid=valid)

    for same in (
        loss(second, first),
        loss(first.flip(0), second.flip(0)),
        loss(first * 7 - 2, second * 0.5),
    ):
        torch.testing.assert_close(same, loss(first, second), rtol=1e-4, atol=1e-5)
