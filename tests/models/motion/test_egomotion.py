"""Egomotion against a plain loop, and what it must not be told by."""

import math

import pytest
import torch

from augment.presets import plain_views
from models.encoders.factory import EncoderConfig
from models.motion.egomotion import Egomotion, EgomotionConfig
from models.registry import build_method
from tests.small_methods import NUM_SAMPLES, make_batch

ENCODER = EncoderConfig(name="resnet18_small", width=8)


def build(flip: float = 0.0, **settings: object) -> Egomotion:
    config = EgomotionConfig.model_validate({"num_classes": 4, "width": 16, **settings})
    made = build_method(config, ENCODER, plain_views(16, (0.7, 1.0), flip), 0)
    assert isinstance(made, Egomotion)
    return made


def test_the_loss_is_that_of_a_plain_loop_over_components() -> None:
    method, batch = build(components=("z", "yaw")), make_batch("egomotion")
    generator = torch.Generator().manual_seed(0)
    motion = torch.rand(NUM_SAMPLES, 6, generator=generator)
    batch["targets"]["motion"] = motion
    batch["valid"][3] = False
    method.eval()
    with torch.no_grad():
        _, logits = method._told(batch)
        out = method(batch)
    total, right, far, of_mean, count = 0.0, 0, 0.0, 0.0, 0
    for row in batch["valid"].nonzero().flatten().tolist():
        for place, column in enumerate((2, 4)):
            rank = motion[row, column].item()
            label = min(int(4 * rank), 3)
            shares = logits[row, place].softmax(0)
            total -= math.log(shares[label].item())
            right += int(shares.argmax()) == label
            expected = sum(shares[k].item() * (k + 0.5) / 4 for k in range(4))
            far += abs(expected - rank)
            of_mean += abs(0.5 - rank)
            count += 1
    assert out["loss"].item() == pytest.approx(total / count, rel=1e-4)
    assert out["ego_top1"].item() == pytest.approx(right / count)
    assert out["beside_mean"].item() == pytest.approx(far / of_mean, rel=1e-4)


def test_even_scores_are_chance_and_no_better_than_the_mean() -> None:
    method, batch = build(), make_batch("egomotion")
    with torch.no_grad():
        for part in (method.compare[3].weight, method.compare[3].bias):
            part.zero_()
        out = method(batch)
    assert out["loss"].item() == pytest.approx(math.log(4))
    assert out["beside_mean"].item() == pytest.approx(1)


def test_motion_is_told_from_both_frames_in_their_order() -> None:
    method, batch = build(), make_batch("egomotion")
    method.eval()
    _, there = method._told(batch)
    first = batch["views"]["global_crops"][0]
    second = method.from_rgb(batch["targets"]["pair"][:, 0].to(first.dtype) / 255)
    batch["views"]["global_crops"] = second.unsqueeze(0)
    batch["targets"]["pair"] = (method.to_rgb(first) * 255).round().to(torch.uint8).unsqueeze(1)
    _, back = method._told(batch)
    assert not torch.allclose(there, back, atol=1e-2)
    batch["targets"]["pair"] = batch["targets"]["pair"].flip(0)
    _, other = method._told(batch)
    assert not torch.allclose(back, other, atol=1e-2)


def test_mirrored_views_are_refused() -> None:
    with pytest.raises(ValueError, match=r"flip=0\.5 would mirror the frames"):
        build(flip=0.5)


@pytest.mark.slow
def test_the_turn_of_a_camera_is_learnt_on_frames_not_seen_before() -> None:
    torch.manual_seed(0)
    method = build(components=("yaw",))
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    for step in range(100):
        optimizer.zero_grad()
        method(make_batch("egomotion", epoch=step % 20))["loss"].backward()
        optimizer.step()
    with torch.no_grad():
        tops = [method(make_batch("egomotion", epoch=epoch))["ego_top1"] for epoch in range(50, 54)]
    assert torch.stack(tops).mean() > 0.7
