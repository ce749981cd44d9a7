import math

import numpy as np
import pytest
import torch

from models.health import (
    alignment,
    alpha_req,
    feature_std,
    info_nce_bound,
    patch_locality,
    patch_rank,
    patch_variation,
    prototype_entropy,
    rankme,
    recognised,
    spread,
    uniformity,
    variation,
)


def test_collapsed_features_have_no_spread_and_rank_one() -> None:
    # one direction, several lengths
    z = torch.tensor([1.0, -2.0, 3.0]) * torch.tensor([[1.0], [5.0], [0.1]])
    assert feature_std(z).item() == pytest.approx(0, abs=1e-6)
    assert rankme(z).item() == pytest.approx(1, abs=1e-4)


def test_spread_of_even_features_is_one_over_the_root_of_the_dimension() -> None:
    z = torch.randn(20_000, 64, generator=torch.Generator().manual_seed(0))
    assert feature_std(z).item() == pytest.approx(1 / 8, rel=1e-2)


def test_rankme_counts_equal_directions() -> None:
    assert rankme(
        torch.cat([torch.eye(5), torch.zeros(4, 5)]).repeat(1, 2)
    ).item() == pytest.approx(5, rel=1e-5)


def test_rankme_is_the_exponential_entropy_of_singular_values() -> None:
    expected = math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert rankme(torch.diag(torch.tensor([6.0, 2.0, 0.0]))).item() == pytest.approx(
        expected, rel=1e-5
    )


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


def test_variation_is_the_share_of_the_length_that_differs_between_samples() -> None:
    assert variation(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])).item() == 1
    assert variation(torch.tensor([[3.0, 1.0], [3.0, -1.0]])).item() == pytest.approx(0.1)
    assert variation(torch.full((4, 3), 2.0)).item() == 0
    assert variation(torch.zeros(4, 3)).item() == 0
    z = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    assert variation(7 * z).item() == pytest.approx(variation(z).item())


def power_law(alpha: float, num: int = 40) -> torch.Tensor:
    """Centred features whose covariance has eigenvalues i ** -alpha, rotated."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(
        torch.randn(200, num + 1, generator=generator).double().index_fill_(1, torch.tensor([0]), 1)
    )[0]
    rotation = torch.linalg.qr(torch.randn(num, num, generator=generator).double())[0]
    scales = torch.arange(1, num + 1).double() ** (-alpha / 2)
    return ((basis[:, 1:] * scales) @ rotation + 3).float()


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.0])
def test_alpha_req_recovers_the_exponent_wherever_the_mean_is(alpha: float) -> None:
    assert alpha_req(power_law(alpha)).item() == pytest.approx(alpha, abs=1e-3)


def test_alpha_req_is_the_slope_of_a_line_through_the_log_eigenvalues() -> None:
    z = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 7)
    eigenvalues = np.sort(np.linalg.eigvalsh(np.cov(z.numpy().T)))[::-1]
    rank = np.arange(4, 7)
    slope = np.polyfit(np.log(rank), np.log(eigenvalues[3:]), 1, w=rank**-0.5)[0]
    assert alpha_req(z).item() == pytest.approx(-slope, rel=1e-4)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_alpha_req_of_no_more_samples_than_dimensions_is_near_the_true_exponent(
    alpha: float,
) -> None:
    samples = torch.randn(512, 512, generator=torch.Generator().manual_seed(0))
    z = samples * torch.arange(1, 513.0).pow(-alpha / 2)
    assert alpha_req(z).item() == pytest.approx(alpha, abs=0.1)


def test_alpha_req_of_collapsed_or_broken_features_is_nan() -> None:
    assert alpha_req(torch.ones(5, 3)).isnan()
    assert alpha_req(torch.outer(torch.arange(5.0), torch.tensor([1.0, 2.0]))).isnan()
    assert alpha_req(torch.full((5, 3), torch.nan)).isnan()


def test_alignment_is_zero_for_equal_views_and_two_for_orthogonal_ones() -> None:
    z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    assert alignment(z, 3 * z).item() == pytest.approx(0, abs=1e-6)
    assert alignment(torch.eye(4), torch.eye(4).roll(1, 0)).item() == pytest.approx(2)
    assert alignment(z, -z).item() == pytest.approx(4, rel=1e-5)


def test_uniformity_equals_a_loop_over_pairs_and_is_zero_on_collapse() -> None:
    z = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    unit = torch.nn.functional.normalize(z.double(), dim=1)
    pairs = [
        math.exp(-2 * float((unit[i] - unit[j]).square().sum()))
        for i in range(7)
        for j in range(7)
        if i != j
    ]
    assert uniformity(z).item() == pytest.approx(math.log(sum(pairs) / len(pairs)), rel=1e-5)
    assert uniformity(torch.ones(5, 3)).item() == pytest.approx(0, abs=1e-5)
    # all pairs the root of 2 apart
    assert uniformity(torch.eye(5)).item() == pytest.approx(-4, rel=1e-5)


def test_prototype_entropy_counts_clusters_in_use() -> None:
    assert prototype_entropy(torch.eye(8)).item() == pytest.approx(math.log(8))
    assert prototype_entropy(torch.eye(8)[:4].repeat(3, 1)).item() == pytest.approx(math.log(4))
    assert prototype_entropy(torch.eye(8)[:1]).item() == 0
    assert prototype_entropy(
        torch.cat([torch.eye(8)[:4], torch.zeros(3, 8)])
    ).item() == pytest.approx(math.log(4))
    assert prototype_entropy(torch.zeros(3, 8)).item() == 0


def test_info_nce_bound_is_zero_at_chance_and_at_most_log_n() -> None:
    assert info_nce_bound(torch.tensor(math.log(64)), 64).item() == pytest.approx(0, abs=1e-6)
    assert info_nce_bound(torch.tensor(0.0), torch.tensor(64)).item() == pytest.approx(math.log(64))


def test_a_view_is_recognised_where_it_is_nearest_to_its_own_sample() -> None:
    plain = torch.eye(4)
    viewed = plain + 0.1 * plain.roll(1, 0)
    viewed[3] = plain[0]  # taken for another sample
    assert recognised(plain, viewed).tolist() == [True, True, True, False]
    assert recognised(3 * plain, 0.1 * viewed).tolist() == [True, True, True, False]
    alike = torch.ones(4, 4)
    assert not recognised(alike, alike).any()  # whoever tells nothing apart earns no luck


def test_patch_tokens_that_tell_their_place_alone_have_no_spread_and_no_rank() -> None:
    generator = torch.Generator().manual_seed(0)
    places = torch.randn(1, 64, 48, generator=generator)
    content = torch.randn(20, 64, 48, generator=generator)
    collapsed = places + 1e-3 * content
    assert patch_variation(collapsed).item() < 1e-5
    assert patch_variation(content).item() == pytest.approx(19 / 20, abs=0.01)
    assert patch_variation(places + content).item() == pytest.approx(0.95 / 2, abs=0.02)
    assert patch_rank(places.expand(20, -1, -1) + content[:, :, :1]).item() < 3
    assert patch_rank(collapsed).item() == pytest.approx(48, rel=0.05)  # noise fills all of them
    assert rankme(collapsed.flatten(0, 1)).item() > 30  # and places alone look alive


def test_locality_is_what_neighbours_share_beyond_any_two_patches() -> None:
    generator = torch.Generator().manual_seed(0)
    alone = torch.randn(30, 64, 32, generator=generator)
    assert patch_locality(alone, (8, 8)).item() == pytest.approx(0, abs=0.02)
    whole = torch.randn(30, 1, 32, generator=generator).expand(-1, 64, -1)
    assert patch_locality(whole, (8, 8)).item() == pytest.approx(0, abs=1e-4)
    smooth = torch.nn.functional.avg_pool2d(
        torch.randn(30, 32, 10, 10, generator=generator), 3, stride=1
    )
    assert patch_locality(smooth.flatten(2).transpose(1, 2), (8, 8)).item() > 0.4


def test_spread_by_a_wanted_deviation_is_a_share_of_it() -> None:
    z = torch.randn(4000, 8, generator=torch.Generator().manual_seed(0))
    assert spread(0.3 * z, wanted_std=0.6) == pytest.approx(0.5, abs=0.01)
    assert spread(9 * z, wanted_std=1.0) == 1
    # one point far from 0, whose directions and lengths differ by rounding
    assert spread(5 + 1e-3 * z, wanted_std=1.0) < 0.01
