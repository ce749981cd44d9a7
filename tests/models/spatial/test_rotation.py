"""Rotation: exact turns, all four of each image, and the loss by a loop."""

import math

import pytest
import torch
from torch.nn import functional

from models.encoders.factory import EncoderConfig
from models.registry import build_method
from models.spatial.rotation import Rotation, RotationConfig, all_turns
from tests.small_methods import NUM_SAMPLES, SIZE, make_batch


def build() -> Rotation:
    encoder = EncoderConfig(name="vit_tiny_small", width=8)  # no batch norm: samples do not meet
    method = build_method(RotationConfig(), encoder, Rotation.default_views(SIZE), 0)
    assert isinstance(method, Rotation)
    return method


def test_turns_move_whole_pixels_and_four_of_them_are_none() -> None:
    images = torch.rand(2, 3, 5, 5)
    turned = all_turns(images)
    assert turned.shape == (4, 2, 3, 5, 5) and torch.equal(turned[0], images)
    for turn in range(4):
        assert torch.equal(turned[turn].flatten(2).sort().values, images.flatten(2).sort().values)
        assert torch.equal(turned[turn].rot90(-turn, dims=(-2, -1)), images)
    assert torch.equal(turned[1][0, 0, 0], images[0, 0, :, -1])  # its right column is now its top


def test_loss_is_the_cross_entropy_of_the_four_turns_by_a_loop() -> None:
    method, batch = build(), make_batch("rotation")
    batch["valid"][3] = False
    losses, right = [], []
    for sample in range(NUM_SAMPLES):
        if sample == 3:
            continue
        for turn in range(4):
            image = batch["views"]["global_crops"][0, sample].rot90(turn, dims=(-2, -1))
            logits = method.classifier(method.encoder(image[None]))[0]
            losses.append(functional.cross_entropy(logits, torch.tensor(turn)).item())
            right.append(int(logits.argmax()) == turn)
    out = method(batch)
    assert out["loss"].item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert out["turn_top1"].item() == pytest.approx(sum(right) / len(right))


def test_at_chance_the_loss_is_log_4_and_a_quarter_is_right() -> None:
    method = build()
    torch.nn.init.zeros_(method.classifier.weight)
    torch.nn.init.zeros_(method.classifier.bias)
    out = method(make_batch("rotation"))
    assert out["loss"].item() == pytest.approx(math.log(4))
    assert out["turn_top1"].item() == pytest.approx(0.25)


def test_turning_all_images_alike_keeps_what_the_encoder_is_shown() -> None:
    images = torch.rand(2, 3, 6, 6)
    again = all_turns(images.rot90(1, dims=(-2, -1)))
    assert torch.equal(again, all_turns(images).roll(-1, dims=0))


def test_the_embedding_is_of_the_upright_image_and_the_turns_are_shown() -> None:
    method, batch = build(), make_batch("rotation")
    upright = method.encoder(batch["views"]["global_crops"][0])
    torch.testing.assert_close(method(batch)["embedding"], upright.detach())
    shown = method.show(batch)
    assert list(shown) == ["turned 90°", "turned 180°", "turned 270°"]
    flat = method.to_rgb(batch["views"]["global_crops"][0])
    assert torch.equal(shown["turned 180°"], flat.flip(-1, -2))
