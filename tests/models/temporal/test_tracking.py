"""Patches followed through clips, and the ranking loss of their ends, against plain loops."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from models.encoders.factory import EncoderConfig
from models.registry import build_method
from models.temporal.patch_tracks import follow_patches, liveliest_patches
from models.temporal.tracking import Tracking, TrackingConfig
from tests.small_methods import NUM_SAMPLES, make_batch

FRAMES = EncoderConfig(name="resnet18_small", width=4, time="frames")


def build(**settings: object) -> Tracking:
    values = {"projection_dim": 8, "min_motion": 0, "min_correlation": -1, **settings}
    made = build_method(
        TrackingConfig.model_validate(values), FRAMES, Tracking.default_views(16), 0
    )
    assert isinstance(made, Tracking)
    return made


def moving(steps: list[tuple[int, int]], size: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """A square of noise that moves over a still ground, and where its upper left corner is."""
    draw = torch.Generator().manual_seed(0)
    ground = torch.rand(3, size, size, generator=draw) * 0.2
    thing = torch.rand(3, 8, 8, generator=draw)
    frames = []
    for top, left in steps:
        frame = ground.clone()
        frame[:, top : top + 8, left : left + 8] = thing
        frames.append(frame)
    return torch.stack(frames).unsqueeze(0), torch.tensor(steps)


def test_a_patch_is_followed_to_the_pixel_also_to_the_border() -> None:
    frames, places = moving([(10, 6), (11, 9), (9, 12), (6, 15), (3, 18), (0, 21), (0, 24)])
    track, alike = follow_patches(frames, places[:1], 8, 3)
    assert torch.equal(track[0], places)
    torch.testing.assert_close(alike, torch.ones(1, 6), rtol=1e-4, atol=1e-4)


def test_a_patch_that_jumps_out_of_reach_correlates_badly() -> None:
    frames, places = moving([(4, 4), (5, 5), (20, 20)])
    _, alike = follow_patches(frames, places[:1], 8, 3)
    assert alike[0, 0] > 0.99 and alike[0, 1] < 0.5


def test_each_step_goes_where_numpys_correlation_is_highest() -> None:
    draw = torch.Generator().manual_seed(1)
    frames = torch.rand(3, 2, 3, 12, 12, generator=draw)
    start = torch.tensor([[0, 5], [4, 4], [6, 1]])
    track, alike = follow_patches(frames, start, 5, 2)
    for row, (top, left) in enumerate(start.tolist()):
        patch = frames[row, 0, :, top : top + 5, left : left + 5].numpy()
        found = {}
        first = [min(max(one - 2, 0), 12 - 9) for one in (top, left)]
        for y in range(first[0], first[0] + 5):
            for x in range(first[1], first[1] + 5):
                there = frames[row, 1, :, y : y + 5, x : x + 5].numpy()
                found[y, x] = np.corrcoef(patch.ravel(), there.ravel())[0, 1]
        best = max(found, key=lambda place: found[place])
        assert tuple(track[row, 1].tolist()) == best
        assert alike[row, 0].item() == pytest.approx(found[best], abs=1e-4)


def test_the_liveliest_patch_is_where_most_changes() -> None:
    frames = torch.zeros(2, 3, 3, 16, 16)
    frames[0, 1, :, 4:12, 7:15] = 0.5
    start, moved = liveliest_patches(frames, 8)
    assert start[0].tolist() == [4, 7]
    assert moved.tolist() == [0.5, 0.0]


def test_the_loss_is_that_of_a_plain_loop_over_hard_negatives() -> None:
    method, batch = build(hard_after=0, num_negatives=3).eval(), make_batch("tracking")
    batch["valid"][2] = False
    ids = batch["sample_id"]
    ids[5] = ids[4]  # the same video once more: no negative
    with torch.no_grad():
        ends, _ = method.tracked(batch["views"]["global_crops"][0])
        z = functional.normalize(method.projection_head(method.encoder.frames(ends)), dim=-1)
        losses, first = [], []
        for row in batch["valid"].nonzero().flatten().tolist():
            positive = 1 - z[row, 0] @ z[row, 1]
            for end in range(2):
                negatives = sorted(
                    (1 - z[row, end] @ z[other, their]).item()
                    for other in range(NUM_SAMPLES)
                    for their in range(2)
                    if batch["valid"][other] and ids[other] != ids[row]
                )
                losses += [max(0.0, positive.item() - one + 0.5) for one in negatives[:3]]
                first.append(float(positive < negatives[0]))
        out = method(batch)
    assert out["loss"].item() == pytest.approx(np.mean(losses), rel=1e-4)
    assert out["rank_top1"].item() == pytest.approx(np.mean(first), abs=1e-6)


def test_random_negatives_are_the_same_however_the_batch_is_ordered() -> None:
    method, batch = build(hard_after=1).eval(), make_batch("tracking")
    hard = build(hard_after=0).eval()
    with torch.no_grad():
        before = method(batch)["loss"].item()
        assert hard(batch)["loss"].item() > before  # the most alike ones cost most
        order = torch.randperm(NUM_SAMPLES, generator=torch.Generator().manual_seed(3))
        for name in ("sample_id", "epoch", "row", "valid"):
            batch[name] = batch[name][order]  # type: ignore[literal-required]
        batch["views"]["global_crops"] = batch["views"]["global_crops"][:, order]
        assert method(batch)["loss"].item() == pytest.approx(before, rel=1e-5)


def test_where_all_patches_are_alike_the_loss_is_the_margin() -> None:
    method, batch = build(margin=0.3), make_batch("tracking")
    with torch.no_grad():
        method.projection_head.weight.zero_()
        method.projection_head.bias.fill_(1)
    assert method(batch)["loss"].item() == pytest.approx(0.3, rel=1e-5)


def test_the_ends_of_a_track_may_change_places() -> None:
    method, batch = build(hard_after=0), make_batch("tracking")
    z = functional.normalize(torch.randn(NUM_SAMPLES, 2, 8), dim=-1)
    asked = torch.ones(NUM_SAMPLES, dtype=torch.bool)
    loss, first = method._ranked(z, asked, batch)
    swapped, too = method._ranked(z.flip(1), asked, batch)
    torch.testing.assert_close(loss, swapped)
    assert torch.equal(first, too)


def test_patches_that_stand_still_or_are_lost_are_not_asked_about() -> None:
    """The control: a clip without motion teaches nothing, and one without any track neither."""
    batch = make_batch("tracking")
    clips = batch["views"]["global_crops"]
    clips[:, :6] = clips[:, :6, :1].clone()
    still = build(min_motion=0.001)(batch)
    assert still["followed"] == 0.5
    changed = make_batch("tracking")
    changed["views"]["global_crops"][:] = clips
    changed["valid"][:6] = False
    same = build(min_motion=0.001)(changed)
    # batch norm sees all patches alike
    assert same["loss"].item() == pytest.approx(still["loss"].item(), rel=1e-5)
    clips[:] = torch.randn(clips.shape, generator=torch.Generator().manual_seed(0))
    assert build(min_correlation=0.9)(batch)["followed"] == 0


def test_gradient_reaches_negatives_too() -> None:
    method, batch = build(hard_after=0), make_batch("tracking")
    z = functional.normalize(torch.randn(NUM_SAMPLES, 2, 8), dim=-1).requires_grad_()
    loss, _ = method._ranked(z, torch.ones(NUM_SAMPLES, dtype=torch.bool), batch)
    [gradient] = torch.autograd.grad(loss[0], z)
    others = gradient[1:].flatten(1).any(1)
    assert others.any() and gradient[0].any()


def test_what_cannot_be_followed_is_refused() -> None:
    with pytest.raises(ValueError, match="patches of less than 8 px"):
        build(patch_share=0.25)
    batch = make_batch("tracking")
    batch["views"]["global_crops"] = batch["views"]["global_crops"][:, :, :1]
    with pytest.raises(ValueError, match=r"clip\.num_frames>=2"):
        build()(batch)
