"""Colours as classes: the soft encoding by a loop, the weights of rare bins, the annealed mean."""

import pytest
import torch

from models.generative.colour_bins import ColourBins, bin_entropy


def colours(*ab: tuple[float, float]) -> torch.Tensor:
    """One image of one row, a colour a place."""
    return torch.tensor(ab).T.reshape(1, 2, 1, -1)


def test_a_colour_is_shared_out_to_its_five_nearest_bins_by_a_loop() -> None:
    bins = ColourBins()
    index, share = bins.encode(colours((12.0, -7.0), (0.0, 0.0)))
    distance = (bins.points - torch.tensor([12.0, -7.0])).norm(dim=1)
    nearest = distance.argsort()[:5]
    assert set(index[0, :, 0, 0].tolist()) == set(nearest.tolist())
    assert index[0, 0, 0, 0] == nearest[0]
    weight = torch.exp(-(distance[index[0, :, 0, 0]] ** 2) / (2 * 5**2))
    torch.testing.assert_close(share[0, :, 0, 0], weight / weight.sum())
    assert bins.points[index[0, 0, 0, 1]].tolist() == [0.0, 0.0]


def test_rare_bins_weigh_more_their_mean_over_what_was_met_is_one_and_it_can_be_left_out() -> None:
    bins = ColourBins()
    torch.testing.assert_close(bins.class_weights(0.5), torch.ones(len(bins.points)))
    bins.met[7] += 0.99  # a batch held this one alone
    weights = bins.class_weights(0.5)
    frequency = bins.met / bins.met.sum()
    assert weights[7] < 0.01 * weights[8]
    assert (weights * frequency).sum().item() == pytest.approx(1.0)
    # the paper's formula for one bin, up to the scale
    expected = (0.5 * frequency[7] + 0.5 / 309) / (0.5 * frequency[8] + 0.5 / 309)
    assert (weights[8] / weights[7]).item() == pytest.approx(expected.item(), rel=1e-4)
    torch.testing.assert_close(bins.class_weights(1.0), torch.ones(len(bins.points)))


def test_the_entropy_is_that_of_the_soft_target_and_log_q_at_chance() -> None:
    bins = ColourBins()
    index, share = bins.encode(colours((12.0, -7.0), (60.0, 40.0)))
    logits = torch.randn(1, 309, 1, 2, generator=torch.Generator().manual_seed(0))
    target = torch.zeros(1, 309, 1, 2).scatter_(1, index, share)
    expected = -(target * logits.log_softmax(1)).sum(1)
    torch.testing.assert_close(bin_entropy(logits, index, share), expected)
    flat = bin_entropy(torch.zeros_like(logits), index, share)
    torch.testing.assert_close(flat, torch.full_like(flat, 309.0).log())
    torch.testing.assert_close(bins.amounts(index, share)[0], target.sum((2, 3))[0] / 2)


def test_the_annealed_mean_lies_between_the_mean_and_the_mode() -> None:
    bins = ColourBins()
    red, green = (
        int((bins.points - torch.tensor(ab)).norm(dim=1).argmin())
        for ab in ((60.0, 40.0), (-60.0, 40.0))
    )
    logits = torch.full((1, 309, 1, 1), -1e4)
    logits[0, red] = torch.tensor(0.7).log()
    logits[0, green] = torch.tensor(0.3).log()
    mean, annealed, mode = (bins.decode(logits, t)[0, 0].item() for t in (1.0, 0.38, 1e-3))
    assert mean == pytest.approx(0.4 * 60, abs=0.1) and mode == pytest.approx(60.0, abs=0.1)
    assert mean < annealed < mode
