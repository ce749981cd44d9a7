"""Learning from scenes: the errors by a loop, keyed scenes, and alignment turned off."""

import math
from typing import Any

import pytest
import torch

from models.encoders.factory import EncoderConfig
from models.generative.synthetic import Synthetic, SyntheticConfig
from models.registry import build_method
from tests.small_methods import SIZE, make_batch

VIT = EncoderConfig(name="vit_tiny_small", width=8)


def build(**settings: Any) -> Synthetic:
    config = SyntheticConfig(decoder_width=4, discriminator_width=4, **settings)
    method = build_method(config, VIT, Synthetic.default_views(SIZE), 0)
    assert isinstance(method, Synthetic)
    return method


def test_errors_are_those_of_pixels_by_a_loop() -> None:
    method = build()
    scenes = method._scenes(make_batch("mae"))
    told = torch.randn(len(scenes.images), 5, SIZE, SIZE)
    found = method._errors(told, scenes)
    contour, depth, normal = [], [], []
    for row in range(SIZE):
        for column in range(SIZE):
            here = told[2, :, row, column]
            edge = bool(scenes.contours[2, 0, row, column])
            share = here[0].sigmoid()
            contour.append(-10 * share.log() if edge else -(1 - share).log())
            true = (scenes.depth[2, 0, row, column].log() - 1.7) / 0.6
            depth.append((here[1] - true).square())
            normal.append(1 - here[2:] @ scenes.normals[2, :, row, column] / here[2:].norm())
    for errors, term in zip((contour, depth, normal), found, strict=True):
        torch.testing.assert_close(torch.stack(errors).mean(), term[2], rtol=1e-4, atol=1e-5)


def test_the_truth_costs_nothing_and_telling_the_mean_depth_about_one() -> None:
    method = build()
    scenes = method._scenes(make_batch("mae"))
    edge = 60 * scenes.contours.float() - 30
    depth = (scenes.depth.log() - 1.7) / 0.6
    truth = torch.cat([edge, depth, scenes.normals], dim=1)
    assert all(error.max() < 1e-4 for error in method._errors(truth, scenes))
    _, of_mean, _ = method._errors(torch.zeros_like(truth), scenes)
    assert 0.5 < of_mean.mean() < 1.6


def test_every_sample_has_its_own_scene_in_any_batch_and_another_one_each_epoch() -> None:
    method, batch = build(), make_batch("mae")
    scenes = method._scenes(batch)
    assert len(scenes.depth.flatten(1).unique(dim=0)) == len(scenes.depth)
    assert not torch.equal(method._scenes(make_batch("mae", epoch=1)).surfaces, scenes.surfaces)
    batch["sample_id"] = batch["sample_id"].flip(0)
    assert torch.equal(method._scenes(batch).surfaces, scenes.surfaces.flip(0))


def test_alignment_reaches_the_encoder_by_scenes_alone_and_can_be_turned_off() -> None:
    terms = {"contour_weight": 0.0, "depth_weight": 0.0, "normal_weight": 0.0}
    batch = make_batch("mae")
    method = build(**terms)
    method(batch)["loss"].backward()
    assert any(p.grad is not None and p.grad.any() for p in method.encoder.parameters())
    assert all(p.grad is None for p in method.discriminator.parameters())
    off = build(**terms, adversarial_weight=0.0)(batch)
    assert off["loss"].item() == 0 and off["discriminator_loss"] > 0
    images = batch["views"]["global_crops"].requires_grad_()
    method(batch)["loss"].backward()
    assert images.grad is None or not images.grad.any()  # without batch norm


def test_a_discriminator_that_guesses_costs_both_sides_log_2() -> None:
    method = build(contour_weight=0.0, depth_weight=0.0, normal_weight=0.0, adversarial_weight=1.0)
    for parameter in method.discriminator.judge.parameters():
        torch.nn.init.zeros_(parameter)
    out = method(make_batch("mae"))
    assert out["loss"].item() == pytest.approx(math.log(2))
    assert out["discriminator_loss"].item() == pytest.approx(2 * math.log(2))


def test_scenes_and_their_truth_are_shown_and_later_what_is_told_of_images() -> None:
    method, batch = build(), make_batch("mae")
    assert list(method.show(batch)) == ["scene", "its depth", "its normals", "its contours"]
    method.after_step(1, 2)
    told = {"image's depth", "image's normals", "image's contours"}
    assert told < set(method.show(batch))
