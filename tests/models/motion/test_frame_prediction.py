"""Prediction of frames against a plain loop, and the shortcuts it is measured beside."""

import pytest
import torch

from models.encoders.factory import EncoderConfig
from models.motion.frame_prediction import (
    FramePrediction,
    FramePredictionConfig,
    gradient_difference,
)
from models.registry import build_method
from tests.small_methods import make_batch

FRAMES = EncoderConfig(name="resnet18_small", width=8, time="frames")
INFLATED = EncoderConfig(name="resnet18_small", width=8, time="inflated")


def build(encoder: EncoderConfig = FRAMES, **settings: object) -> FramePrediction:
    config = FramePredictionConfig.model_validate({"decoder_width": 4, **settings})
    made = build_method(config, encoder, FramePrediction.default_views(16), 0)
    assert isinstance(made, FramePrediction)
    return made


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_the_loss_is_that_of_a_plain_loop_over_pixels(norm: str) -> None:
    method, batch = build(norm=norm, gradient_weight=0.5, num_past=3), make_batch("videomae")
    batch["valid"][:10] = False
    method.eval()
    frames, painted, _ = method._paint(batch)
    assert torch.equal(frames, batch["views"]["global_crops"][0][:, :4])
    total = 0.0
    for row in (10, 11):
        true, mine = frames[row, 3].double(), painted[row].detach().double()
        error = sum(
            abs(mine[c, y, x] - true[c, y, x]) ** (1 if norm == "l1" else 2)
            for c in range(3)
            for y in range(16)
            for x in range(16)
        )
        down = sum(
            abs(abs(true[c, y, x] - true[c, y - 1, x]) - abs(mine[c, y, x] - mine[c, y - 1, x]))
            for c in range(3)
            for y in range(1, 16)
            for x in range(16)
        )
        across = sum(
            abs(abs(true[c, y, x] - true[c, y, x - 1]) - abs(mine[c, y, x] - mine[c, y, x - 1]))
            for c in range(3)
            for y in range(16)
            for x in range(1, 16)
        )
        total += float(error / (3 * 256) + 0.5 * (down + across) / (3 * 240))
    assert method(batch)["loss"].item() == pytest.approx(total / 2, rel=1e-4)


def test_differences_know_edges_from_blur_and_not_their_direction() -> None:
    edge = torch.zeros(1, 1, 4, 4)
    edge[..., 2:] = 1
    assert gradient_difference(edge, edge) == 0
    assert gradient_difference(1 - edge, edge) == 0  # as the paper's, of absolute differences
    assert gradient_difference(torch.full_like(edge, 0.5), edge).item() == pytest.approx(1 / 3)


def test_copying_the_frame_before_is_the_measure() -> None:
    method, batch = build(), make_batch("videomae")
    clips = batch["views"]["global_crops"]
    painted = clips[0, :, method.num_past - 1].float()
    judged = method._judged(clips[0, :, : method.num_past + 1].float(), painted, batch["valid"])
    assert judged["beside_copying"].item() == pytest.approx(1)
    still = method._judged(
        clips[0, :, :1].float().expand(-1, 5, -1, -1, -1), painted, batch["valid"]
    )
    assert still["beside_copying"].isfinite()


def test_the_past_keeps_its_order_where_frames_are_encoded_one_by_one() -> None:
    method, batch = build(), make_batch("videomae")
    method.eval()
    _, forwards, _ = method._paint(batch)
    batch["views"]["global_crops"][:, :, :4] = batch["views"]["global_crops"][:, :, :4].flip(2)
    _, backwards, _ = method._paint(batch)
    assert not torch.allclose(forwards, backwards, atol=1e-3)
    assert build(INFLATED)._paint(batch)[1].shape == (12, 3, 16, 16)


def test_nothing_of_the_last_frame_reaches_what_is_painted() -> None:
    for encoder in (FRAMES, INFLATED):
        method, batch = build(encoder), make_batch("videomae")
        method.eval()
        expected = method._paint(batch)[1]
        batch["views"]["global_crops"][:, :, 4:] = 7
        assert torch.equal(method._paint(batch)[1], expected)


def test_short_clips_are_refused() -> None:
    with pytest.raises(ValueError, match=r"method\.num_past=6 needs clip\.num_frames>=7"):
        build(num_past=6)(make_batch("videomae"))
