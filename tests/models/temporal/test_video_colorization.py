"""Colour copied through clips: against a plain loop, and where copying straight is right."""

import math

import pytest
import torch
from torch.nn import functional

from augment.lab import lab_to_rgb, rgb_to_lab
from models.encoders.factory import EncoderConfig
from models.registry import build_method
from models.temporal.video_colorization import VideoColorization, VideoColorizationConfig
from tests.small_methods import NUM_FRAMES, make_batch

FRAMES = EncoderConfig(name="resnet18_small", width=4, time="frames")


def build(**settings: object) -> VideoColorization:
    values = {"num_colours": 6, "projection_dim": 8, **settings}
    config = VideoColorizationConfig.model_validate(values)
    made = build_method(config, FRAMES, VideoColorization.default_views(32), 0)
    assert isinstance(made, VideoColorization)
    return made


def test_the_loss_is_that_of_a_plain_loop_over_places() -> None:
    method, batch = build(temperature=0.5).eval(), make_batch("video_colorization")
    batch["valid"][2] = False
    losses, right, still = [], [], []
    with torch.no_grad():
        for row in batch["valid"].nonzero().flatten().tolist():
            clip = batch["views"]["global_crops"][0, row]
            lab = rgb_to_lab(method.to_rgb(clip))
            mean, deviation = sum(method.views.mean) / 3, sum(method.views.std) / 3
            grey = ((lab[:, :1] / 100 - mean) / deviation).expand(-1, 3, -1, -1)
            maps = torch.cat([method.encoder.maps(one[None, None]) for one in grey])
            features = method.projection(maps)  # (T, P, 4, 4)
            ab = functional.avg_pool2d(lab[:, 1:], 8)
            label = (ab.movedim(1, -1).unsqueeze(3) - method.colours).norm(dim=-1).argmin(-1)
            for y in range(4):
                for x in range(4):
                    own = features[-1, :, y, x]
                    scores, colours = [], []
                    for time in range(NUM_FRAMES - 1):
                        for v in range(4):
                            for u in range(4):
                                scores.append(float(own @ features[time, :, v, u]) / 0.5)
                                colours.append(int(label[time, v, u]))
                    weights = torch.tensor(scores).softmax(0)
                    told = torch.zeros(6).index_add(0, torch.tensor(colours), weights)
                    target = int(label[-1, y, x])
                    losses.append(-math.log(max(float(told[target]), 1e-8)))
                    right.append(float(told.argmax() == target))
                    still.append(float(label[-2, y, x] == target))
        out = method(batch)
    assert out["loss"].item() == pytest.approx(sum(losses) / len(losses), rel=1e-3)
    assert out["colour_top1"].item() == pytest.approx(sum(right) / len(right), abs=1e-6)
    assert out["still_top1"].item() == pytest.approx(sum(still) / len(still), abs=1e-6)


def test_equal_features_copy_the_mean_of_the_references() -> None:
    method = build(num_colours=2)
    features = torch.ones(1, 3, 4, 8)
    label = torch.tensor([[[0, 0, 0, 1], [0, 1, 1, 1], [0, 1, 0, 1]]])
    told = method._copied(features, label)
    torch.testing.assert_close(told, torch.full((1, 4, 2), 0.5))


def test_a_place_copies_from_where_it_was() -> None:
    """Features that say which thing a place shows move, and the colours move with them."""
    method = build(num_colours=4)
    things = torch.eye(8)[None, None] * 100  # (1, 1, 8 places, 8 features)
    features = torch.cat([things, things.roll(3, dims=2)], dim=1)
    label = torch.tensor([[[0, 1, 2, 3, 3, 2, 1, 0]] * 2])
    told = method._copied(features, label).argmax(-1)
    assert torch.equal(told[0], label[0, 0].roll(3))


def test_the_order_of_the_references_is_of_no_account() -> None:
    method, batch = build().eval(), make_batch("video_colorization")
    with torch.no_grad():
        before = method(batch)["loss"].item()
        clips = batch["views"]["global_crops"]
        clips[:] = torch.cat([clips[:, :, :-1].flip(2), clips[:, :, -1:]], dim=2)
        assert method(batch)["loss"].item() == pytest.approx(before, rel=1e-5)


def test_the_encoder_sees_no_colour() -> None:
    method, batch = build().eval(), make_batch("video_colorization")
    clips = batch["views"]["global_crops"][0]
    frames = clips.flatten(0, 1)
    lightness = rgb_to_lab(method.to_rgb(frames))
    with torch.no_grad():
        maps, _, ab = method._looked_at(clips)
        greyed = lightness.clone()
        greyed[:, 1:] = 0
        mean = torch.tensor(method.views.mean).view(3, 1, 1)
        std = torch.tensor(method.views.std).view(3, 1, 1)
        plain = (lab_to_rgb(greyed) - mean) / std
        same, _, none = method._looked_at(plain.unflatten(0, clips.shape[:2]))
    torch.testing.assert_close(maps, same, rtol=1e-2, atol=1e-2)
    assert ab.abs().mean() > 3 and none.abs().mean() < 0.1


def test_colours_are_clustered_after_the_first_step_of_valid_samples_alone() -> None:
    method, batch = build(), make_batch("video_colorization")
    before = method.colours.clone()
    batch["valid"][0] = False
    method(batch)
    method.after_step(1, 9)
    clustered = method.colours.clone()
    assert not torch.equal(before, clustered)
    other = build()
    changed = make_batch("video_colorization")
    changed["valid"][0] = False
    changed["views"]["global_crops"][:, 0] = 7.0
    other(changed)
    other.after_step(1, 9)
    assert torch.equal(other.colours, clustered)
    method(batch)
    method.after_step(2, 9)
    assert torch.equal(method.colours, clustered)


def test_in_a_clip_that_stands_still_copying_straight_is_right() -> None:
    """The control: there nothing has to be looked for, and the log says so."""
    method, batch = build().eval(), make_batch("video_colorization")
    method(batch)
    with torch.no_grad():
        moving = method(batch)["still_top1"].item()
        clips = batch["views"]["global_crops"]
        clips[:] = clips[:, :, :1].clone()
        assert method(batch)["still_top1"].item() == 1
    assert moving < 0.95


def test_clips_of_one_frame_are_refused() -> None:
    batch = make_batch("video_colorization")
    batch["views"]["global_crops"] = batch["views"]["global_crops"][:, :, :1]
    with pytest.raises(ValueError, match=r"clip\.num_frames>=2"):
        build()(batch)
