"""Counting: the loss by a loop, who another image is, and that its contrast keeps counts alive."""

from typing import Any

import pytest
import torch
from torch.nn import functional

from models.encoders.factory import EncoderConfig
from models.registry import build_method
from models.spatial.counting import Counting, CountingConfig, next_valid
from tests.small_methods import NUM_SAMPLES, make_batch

VIT = EncoderConfig(name="vit_tiny_small", width=8)


def build(encoder: EncoderConfig = VIT, **settings: Any) -> Counting:
    given = {"hidden_dim": 32, "num_counts": 16, **settings}
    method = build_method(CountingConfig(**given), encoder, Counting.default_views(32), 0)
    assert isinstance(method, Counting)
    return method


def test_loss_is_that_of_sums_and_of_the_next_valid_image_by_a_loop() -> None:
    method = build(mixed_shrinking=False, contrast=0.5, margin=3.0)
    batch = make_batch("counting")
    batch["valid"][[4, 11]] = False
    losses = []
    valid = [index for index in range(NUM_SAMPLES) if batch["valid"][index]]
    images = batch["views"]["global_crops"][0]
    small = functional.interpolate(images, scale_factor=0.5, mode="area")
    for place, index in enumerate(valid):
        other = valid[(place + 1) % len(valid)]
        corners = [(0, 0), (0, 16), (16, 0), (16, 16)]
        total = sum(
            method.head(method.encoder(images[index, None, :, y : y + 16, x : x + 16]))
            for y, x in corners
        )
        own, others = (method.head(method.encoder(small[at, None])) for at in (index, other))
        apart = (total - others).square().sum()
        losses.append(((total - own).square().sum() + 0.5 * (3.0 - apart).relu()).item())
    assert method(batch)["loss"].item() == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_where_nothing_is_counted_the_loss_is_the_margin() -> None:
    method = build()
    torch.nn.init.constant_(method.head[2].bias, -100.0)
    out = method(make_batch("counting"))
    assert out["loss"].item() == pytest.approx(10.0)
    assert out["count"].item() == out["sum_error"].item() == 0.0


def test_an_image_that_counts_nothing_weighs_in_the_share_of_the_error_as_any_other() -> None:
    error = torch.tensor([2.0, 1.0, 50.0])
    size = torch.tensor([0.0, 6.0, 1.0])
    valid = torch.tensor([True, True, False])
    assert Counting._share(error, size, valid).item() == pytest.approx(0.5)


def test_the_next_valid_row_is_found_round_the_end_and_never_is_the_row_itself() -> None:
    index, exists = next_valid(torch.tensor([True, False, True, True, False]))
    assert index.tolist() == [2, 2, 3, 0, 0] and exists.all()
    _, alone = next_valid(torch.tensor([False, True, False]))
    assert alone.tolist() == [True, False, True]
    _, none = next_valid(torch.zeros(3, dtype=torch.bool))
    assert not none.any()


@pytest.mark.parametrize("contrast", [1.0, 0.0])
def test_without_contrast_everything_comes_to_count_nothing(contrast: float) -> None:
    method = build(EncoderConfig(name="resnet18_small", width=4, norm="layer"), contrast=contrast)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.03)
    batch = make_batch("counting")
    first = method(batch)["count"].item()
    for _ in range(40):
        optimizer.zero_grad()
        method(batch)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(method.parameters(), 5.0)
        optimizer.step()
    last = method(batch)["count"].item()
    assert (last > first) if contrast else (last < 0.2 * first), (first, last)


def test_ways_of_shrinking_are_drawn_and_can_be_left_out() -> None:
    batch = make_batch("counting")
    _, mixed = build()._parts(batch)
    quarters, plain = build(mixed_shrinking=False)._parts(batch)
    same = (mixed == plain).flatten(1).all(1)
    assert 0 < same.sum() < NUM_SAMPLES
    image = batch["views"]["global_crops"][0, 2]
    assert torch.equal(quarters[1, 2], image[:, :16, 16:])
    assert torch.equal(quarters[2, 2], image[:, 16:, :16])


def test_an_encoder_that_embeds_by_more_than_its_places_is_refused() -> None:
    with pytest.raises(ValueError, match=r"method\.name=counting needs that"):
        build(EncoderConfig(name="amdim", width=8))
