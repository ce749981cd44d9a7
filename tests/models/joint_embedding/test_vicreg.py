"""VICReg's three terms against numpy, a closed form and a symmetry."""

import numpy as np
import pytest
import torch
from torch import Tensor

from models.joint_embedding.vicreg import vicreg_terms


def projections(num_samples: int = 9, dim: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(num_samples, dim, generator=generator) * torch.linspace(0.2, 2, dim) + 3
    return first, first + 0.3 * torch.randn(num_samples, dim, generator=generator)


@pytest.mark.parametrize(
    "valid", [[True] * 9, [True, False, True, True, True, False, True, True, True]]
)
def test_terms_are_those_of_numpy(valid: list[bool]) -> None:
    first, second = projections()
    mask = torch.tensor(valid)
    one, other = first[mask].numpy(), second[mask].numpy()
    variance = covariance = 0.0
    for z in (one, other):
        products = np.cov(z.T)
        variance += np.maximum(0, 1 - np.sqrt(np.diag(products) + 1e-4)).mean() / 2
        covariance += (products[~np.eye(5, dtype=bool)] ** 2).sum() / 5
    actual = [term.item() for term in vicreg_terms(first, second, mask)]
    assert actual == pytest.approx([((one - other) ** 2).mean(), variance, covariance], rel=1e-4)


def test_collapsed_features_cost_all_their_deviation() -> None:
    z = torch.full((4, 3), 7.0)
    terms = vicreg_terms(z, z, torch.ones(4, dtype=torch.bool))
    assert [term.item() for term in terms] == pytest.approx([0, 0.99, 0], abs=1e-6)


def test_equal_uncorrelated_features_of_deviation_one_cost_nothing() -> None:
    z = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    terms = vicreg_terms(z, z, torch.ones(4, dtype=torch.bool))
    assert [term.item() for term in terms] == pytest.approx([0, 0, 0], abs=1e-6)


def test_order_of_views_and_samples_and_a_shift_do_not_matter() -> None:
    first, second = projections()
    valid = torch.ones(9, dtype=torch.bool)
    expected = torch.stack(vicreg_terms(first, second, valid))
    for one, other in ((second, first), (first.flip(0), second.flip(0)), (first + 2, second + 2)):
        torch.testing.assert_close(
            torch.stack(vicreg_terms(one, other, valid)), expected, rtol=1e-4, atol=1e-5
        )
