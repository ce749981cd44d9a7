"""Colorization: what the encoder sees, what is counted, and why squared error goes grey."""

from typing import Any

import pytest
import torch
from torch import Tensor

from augment.lab import lab_to_rgb, rgb_to_lab
from models.encoders.factory import EncoderConfig
from models.generative.colorization import Colorization, ColorizationConfig, mean_amounts
from models.method import Batch
from models.registry import build_method
from tests.small_methods import make_batch

SIZE = 16
ENCODER = EncoderConfig(name="resnet18_small", width=8, norm="layer")


def build(size: int = SIZE, **settings: Any) -> Colorization:
    config = ColorizationConfig(**{"decoder_width": 4, **settings})
    method = build_method(config, ENCODER, Colorization.default_views(size), 0)
    assert isinstance(method, Colorization)
    return method


def batch_of(method: Colorization, rgb: Tensor) -> Batch:
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (method.views.mean, method.views.std))
    number = torch.arange(len(rgb))
    return Batch(
        views={"global_crops": ((rgb - mean) / std).unsqueeze(0)},
        sample_id=number,
        row=number,
        epoch=torch.zeros_like(number),
        valid=torch.ones_like(number, dtype=torch.bool),
    )


def recoloured(batch: Batch, method: Colorization) -> Batch:
    """The same lightness with duller colours, which all can be shown."""
    lab = rgb_to_lab(method.to_rgb(batch["views"]["global_crops"][0]))
    lab[:, 1:] *= 0.3
    return batch_of(method, lab_to_rgb(lab))


def test_the_encoder_sees_the_lightness_alone() -> None:
    method = build()
    rgb = method.to_rgb(make_batch("colorization")["views"]["global_crops"][0])
    vivid = batch_of(method, rgb)
    dull = recoloured(vivid, method)
    grey = method.show(vivid)["grey input"]
    torch.testing.assert_close(grey, method.show(dull)["grey input"], rtol=0, atol=2e-3)
    assert torch.equal(grey[:, 0], grey[:, 2])
    out = method(vivid)
    other = method(dull)
    torch.testing.assert_close(out["embedding"], other["embedding"], rtol=2e-2, atol=2e-2)
    assert other["true_chroma"] < 0.5 * out["true_chroma"]


def test_colours_of_valid_samples_are_counted_from_the_next_step_on() -> None:
    method = build()
    batch = make_batch("colorization")
    batch["valid"][2:] = False
    before = method.bins.met.clone()
    method(batch)
    assert torch.equal(method.bins.met, before)
    method.after_step(1, 2)
    assert method.bins.met.sum().item() == pytest.approx(1.01, rel=1e-4)
    lab = rgb_to_lab(method.to_rgb(batch["views"]["global_crops"][0, :2]))
    ab = torch.nn.functional.adaptive_avg_pool2d(lab[:, 1:], method.size)
    expected = method.bins.amounts(*method.bins.encode(ab)).mean(0)
    torch.testing.assert_close(method.bins.met - before, expected, rtol=1e-3, atol=1e-6)
    assert not mean_amounts(torch.ones(3, 4), torch.zeros(3, dtype=torch.bool)).any()


def test_rebalancing_weighs_a_place_by_its_nearest_bin_and_one_takes_it_away() -> None:
    batch = make_batch("colorization")
    losses = {}
    for share in (0.5, 1.0):
        method = build(uniform_share=share)
        method.bins.met[:] = 1e-3
        method.bins.met[(method.bins.points.norm(dim=1) < 25)] = 1.0  # dull colours are common
        torch.nn.init.zeros_(method.decoder.predict.weight)
        losses[share] = method(batch)["loss"].item()
    assert losses[1.0] == pytest.approx(torch.tensor(309.0).log().item(), rel=1e-5)
    assert losses[0.5] != pytest.approx(losses[1.0], rel=0.05)


def told_chroma(shares: tuple[int, int], colours: Tensor, **settings: Any) -> float:
    """Train on images of one lightness and two colours, in given shares; the told distance from
    grey."""
    method = build(size=8, decoder_width=8, **settings)
    lab = torch.full((sum(shares), 3, 8, 8), 50.0)
    lab[:, 1:] = colours.repeat_interleave(torch.tensor(shares), dim=0)[:, :, None, None]
    batch = batch_of(method, lab_to_rgb(lab))
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-2)
    for step in range(40):
        optimizer.zero_grad()
        out = method(batch)
        out["loss"].backward()
        optimizer.step()
        method.after_step(step + 1, 40)
    return out["chroma"].item()


@pytest.mark.slow
def test_squared_error_goes_grey_where_colours_are_ambiguous_and_bins_do_not() -> None:
    colours = torch.tensor([[40.0, 30.0], [-40.0, 30.0]])  # red and green, 50 from grey
    squared = told_chroma((4, 2), colours, output="l2")
    assert squared == pytest.approx(33.0, abs=3.0)  # that of their mean (13, 30)
    assert told_chroma((4, 2), colours, uniform_share=1.0) > squared + 4.0


@pytest.mark.slow
def test_rebalancing_brings_rare_colours_to_light() -> None:
    colours = torch.tensor([[2.0, 2.0], [40.0, 30.0]])  # most are nearly grey
    plain = told_chroma((5, 1), colours, uniform_share=1.0)
    assert plain < 10.0
    assert told_chroma((5, 1), colours) > plain + 5.0
