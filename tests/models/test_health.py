import math

import pytest
import torch

from models.health import feature_std, rankme


def test_collapsed_features_have_no_spread_and_rank_one() -> None:
    z = torch.tensor([1.0, -2.0, 3.0]) * torch.tensor([[1.0], [5.0], [0.1]])  # one direction, several lengths
    assert feature_std(z).item() == pytest.approx(0, abs=1e-6)
    assert rankme(z).item() == pytest.approx(1, abs=1e-4)


def test_spread_of_even_features_is_one_over_the_root_of_the_dimension() -> None:
    z = torch.randn(20_000, 64, generator=torch.Generator().manual_seed(0))
    assert feature_std(z).item() == pytest.approx(1 / 8, rel=1e-2)


def test_rankme_counts_equal_directions() -> None:
    assert rankme(torch.cat([torch.eye(5), torch.zeros(4, 5)]).repeat(1, 2)).item() == pytest.approx(5, rel=1e-5)


def test_rankme_is_the_exponential_entropy_of_singular_values() -> None:
    expected = math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert rankme(torch.diag(torch.tensor([6.0, 2.0, 0.0]))).item() == pytest.approx(expected, rel=1e-5)


def test_rankme_does_not_depend_on_scale_order_or_rotation() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(30, 8, generator=generator) * torch.arange(1.0, 9)
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=generator))[0]
    for same in (100 * z, z.flip(0), z @ rotation):
        torch.testing.assert_close(rankme(same), rankme(z), rtol=1e-4, atol=0)


def test_features_that_are_not_finite_give_nan_instead_of_an_exception() -> None:
    z = torch.randn(6, 3)
    z[2, 1] = torch.nan
    assert rankme(z).isnan()
    assert feature_std(z).isnan()


def test_zero_features_and_half_precision_are_measured() -> None:
    assert rankme(torch.zeros(4, 3)).item() == 1
    assert feature_std(torch.zeros(4, 3)).item() == 0
    assert rankme(torch.eye(4).bfloat16()).dtype == torch.float32
