"""Context encoder: its loss by a loop, the rim's weight turned off, and what reaches what."""

from typing import Any

import pytest
import torch
from torch import Tensor

from models.encoders.factory import EncoderConfig
from models.generative.context_encoder import (
    ChannelWise,
    ContextEncoder,
    ContextEncoderConfig,
    gradient_energy,
)
from models.generative.pixel_masks import widen
from models.registry import build_method
from tests.small_methods import SIZE, make_batch

VIT = EncoderConfig(name="vit_tiny_small", width=8)  # no batch norm: samples do not meet
RESNET = EncoderConfig(name="resnet18_small", width=8)


def build(encoder: EncoderConfig = VIT, **settings: Any) -> ContextEncoder:
    config = ContextEncoderConfig(decoder_width=4, **settings)
    method = build_method(config, encoder, ContextEncoder.default_views(SIZE), 0)
    assert isinstance(method, ContextEncoder)
    return method


def painted(method: ContextEncoder) -> tuple[Tensor, Tensor, Tensor]:
    images, hidden, made, _ = method._paint(make_batch("context_encoder"))
    return images, hidden, made.detach()


def test_loss_counts_hidden_pixels_once_and_the_rim_ten_times_by_a_loop() -> None:
    method = build(mask="blocks", overlap=14)
    assert method.overlap == 2  # 14 px of 128 at views of 16
    images, hidden, made = painted(method)
    region = widen(hidden, 2)
    losses = []
    for sample in range(len(images)):
        errors = []
        for row, column in region[sample, 0].nonzero().tolist():
            step = made[sample, :, row, column] - images[sample, :, row, column]
            weight = 1 if hidden[sample, 0, row, column] else 10
            errors.append(weight * step.square().mean())
        losses.append(torch.stack(errors).mean())
    torch.testing.assert_close(
        method(make_batch("context_encoder"))["loss"], torch.stack(losses).mean()
    )


def test_without_its_weight_or_without_overlap_the_rim_does_not_count() -> None:
    images, hidden, made = painted(build(mask="central"))
    rim = widen(hidden, 1) & ~hidden
    worse = torch.where(rim, made + 5, made)
    for settings, counts in (({}, True), ({"overlap_weight": 0.0}, False), ({"overlap": 0}, False)):
        method = build(mask="central", **settings)
        at_first = method._error(images, hidden, made)
        then = method._error(images, hidden, worse)
        assert bool((then > at_first + 1).all()) == counts
        assert torch.equal(then, at_first) != counts
    # how much the rim is worth: its error is 25 more, ten times a pixel of the hole
    plain = build(mask="central", overlap_weight=1.0)._error(images, hidden, made + 5)
    weighted = build(mask="central")._error(images, hidden, made + 5)
    assert (weighted > 2 * plain).all()


def test_hidden_pixels_do_not_reach_what_is_painted() -> None:
    method, batch = build(), make_batch("context_encoder")
    images, hidden, made = painted(method)
    batch["views"]["global_crops"][0] = torch.where(hidden, torch.randn_like(images), images)
    torch.testing.assert_close(method._paint(batch)[2], made)


def test_painting_the_mean_colour_costs_the_pixels_energy() -> None:
    method = build(overlap=0)
    torch.nn.init.zeros_(method.decoder.predict.weight)
    images, hidden, _ = painted(method)
    energy = (images.square().mean(1, keepdim=True) * hidden).sum((1, 2, 3)) / hidden.sum((1, 2, 3))
    out = method(make_batch("context_encoder"))
    assert out["loss"].item() == pytest.approx(energy.mean().item(), rel=1e-5)
    assert out["sharpness"].item() == 0


def test_convolutions_reach_the_whole_picture_by_the_channel_wise_layer_alone() -> None:
    join = ChannelWise(3, 4)
    maps = torch.randn(2, 3, 2, 2, requires_grad=True)
    join(maps)[0, 1, 0, 0].backward()
    assert maps.grad is not None
    assert maps.grad[0, 1].all()  # every place of its channel
    assert not maps.grad[1].any() and not maps.grad[0, [0, 2]].any()
    assert isinstance(build(RESNET).join, ChannelWise)
    assert not isinstance(build(VIT).join, ChannelWise)


def test_the_gradient_energy_of_stripes_is_known_and_blur_takes_it_away() -> None:
    stripes = torch.zeros(1, 2, 8, 8)
    stripes[..., ::2] = 1.0
    where = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    # neighbours differ by 1 along rows and not at all along columns
    assert gradient_energy(stripes, where).item() == pytest.approx(0.5)
    assert gradient_energy(torch.full_like(stripes, 0.5), where).item() == 0
    where[..., :4] = False
    assert gradient_energy(stripes, where).item() == pytest.approx(24 / (24 + 28))


def test_the_context_is_shown_at_first_and_what_was_painted_later() -> None:
    method, batch = build(), make_batch("context_encoder")
    assert list(method.show(batch)) == ["context"]
    method.after_step(1, 2)
    shown = method.show(batch)
    assert list(shown) == ["context", "filled in"]
    _, hidden, _ = painted(method)
    outside = (~hidden).expand_as(shown["context"])
    assert torch.equal(shown["context"][outside], shown["filled in"][outside])
