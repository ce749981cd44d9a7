"""BiGAN: pairs from both sides by a loop, keyed codes, and images within the range of pixels."""

import math

import pytest
import torch
from torch.nn import functional

from models.encoders.factory import EncoderConfig
from models.generative.bigan import BiGAN
from models.registry import build_method
from tests.small_methods import SIZE, make_batch

VIT = EncoderConfig(name="vit_tiny_small", width=8)


def build() -> BiGAN:
    method = build_method(BiGAN.small, VIT, BiGAN.default_views(SIZE), 0)
    assert isinstance(method, BiGAN)
    return method


def test_losses_are_the_cross_entropies_of_pairs_by_a_loop() -> None:
    method, batch = build().eval(), make_batch("bigan")
    batch["valid"][3] = False
    images = batch["views"]["global_crops"][0]
    ours, theirs, right = [], [], []
    codes = method._draw(batch)
    for sample in range(len(images)):
        if sample == 3:
            continue
        image, drawn = images[sample : sample + 1], codes[sample : sample + 1]
        real = method.discriminator(image, method.code(method.encoder(image)))
        made = method.discriminator(method.made(drawn), drawn)
        ours.append(functional.softplus(real) + functional.softplus(-made))
        theirs.append(functional.softplus(-real) + functional.softplus(made))
        right += [bool(real > 0), bool(made < 0)]
    out = method(batch)
    torch.testing.assert_close(out["loss"], torch.cat(ours).mean())
    torch.testing.assert_close(out["discriminator_loss"], torch.cat(theirs).mean())
    assert out["discriminator_top1"].item() == pytest.approx(sum(right) / len(right))


def test_a_discriminator_that_guesses_costs_both_sides_2_log_2() -> None:
    method = build()
    for parameter in method.discriminator.judge.parameters():
        torch.nn.init.zeros_(parameter)
    out = method(make_batch("bigan"))
    assert out["loss"].item() == pytest.approx(2 * math.log(2))
    assert out["discriminator_loss"].item() == pytest.approx(2 * math.log(2))


def test_codes_are_keyed_by_sample_and_epoch_and_bounded() -> None:
    method, batch = build(), make_batch("bigan")
    codes = method._draw(batch)
    assert codes.abs().max() <= 1 and codes.min() < -0.5 and codes.max() > 0.5
    assert len(codes.unique()) == codes.numel()
    assert not torch.equal(codes, method._draw(make_batch("bigan", epoch=1)))


def test_what_is_made_lies_in_the_range_of_pixels_and_is_shown() -> None:
    method, batch = build(), make_batch("bigan")
    made = method.made(100 * torch.randn(4, 6))
    mean, std = torch.tensor(method.views.mean), torch.tensor(method.views.std)
    low, high = (-mean / std).view(3, 1, 1), ((1 - mean) / std).view(3, 1, 1)
    assert ((made >= low - 1e-6) & (made <= high + 1e-6)).all()
    assert method.show(batch) == {}
    method.after_step(1, 2)
    assert list(method.show(batch)) == ["of a random code", "of its own code"]
