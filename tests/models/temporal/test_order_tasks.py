"""Tasks of order and direction: what is asked, and that each guard takes its shortcut away."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from models.encoders.factory import EncoderConfig
from models.method import Batch
from models.registry import build_method
from models.temporal.arrow_of_time import ArrowOfTime, ArrowOfTimeConfig
from models.temporal.frame_order import FrameOrder, FrameOrderConfig
from models.temporal.guards import MotionGuards, guarded, motion
from tests.small_methods import make_batch

INFLATED = EncoderConfig(name="resnet18_small", width=8, time="inflated")
FRAMES = EncoderConfig(name="resnet18_small", width=8, time="frames")


def batch_of(clips: Tensor) -> Batch:
    """A batch of given clips, (B, T, 3, S, S) normalised."""
    sample_id = torch.arange(len(clips)) * 31 + 5
    return Batch(
        views={"global_crops": clips.unsqueeze(0)},
        sample_id=sample_id,
        row=sample_id,
        epoch=torch.zeros_like(sample_id),
        valid=torch.ones(len(clips), dtype=torch.bool),
    )


def arrow(**settings: float) -> ArrowOfTime:
    config = ArrowOfTimeConfig.model_validate({"min_motion": 0, **settings})
    made = build_method(config, INFLATED, ArrowOfTime.default_views(16), 0)
    assert isinstance(made, ArrowOfTime)
    return made


def order(**settings: object) -> FrameOrder:
    config = FrameOrderConfig.model_validate({"min_motion": 0, **settings})
    made = build_method(config, FRAMES, FrameOrder.default_views(16), 0)
    assert isinstance(made, FrameOrder)
    return made


def learnt(method: ArrowOfTime | FrameOrder, batch: Batch, steps: int) -> float:
    """Accuracy on the same clips after a few steps."""
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        out = method(batch)
        out["loss"].backward()
        optimizer.step()
    return float(next(value for key, value in out.items() if key.endswith("_top1")))


def with_a_clock(place: str, num_frames: int) -> Tensor:
    """Clips of noise that stands still, but for what tells the time: a border that grows brighter,
    or noise of single pixels that grows stronger."""
    generator = torch.Generator().manual_seed(0)
    still = torch.randn(8, 1, 3, 16, 16, generator=generator)
    still = still.expand(-1, num_frames, -1, -1, -1).clone()
    time = torch.linspace(0, 2, num_frames).view(-1, 1, 1)
    if place == "border":
        still[:, :, :, 0] = time.expand(num_frames, 3, 16)
        return still
    chessboard = (torch.arange(16).view(-1, 1) + torch.arange(16)) % 2 * 2 - 1.0
    return still + time.unsqueeze(-1) * chessboard


@pytest.mark.parametrize(
    ("place", "guard"), [("border", {"margin": 0.1}), ("detail", {"soften": 2})]
)
@pytest.mark.parametrize(
    ("make", "num_frames", "steps"),
    [(arrow, 4, 8), pytest.param(order, 5, 40, marks=pytest.mark.slow)],
    ids=["arrow", "order"],
)
def test_each_guard_takes_its_clock_away(
    make: Callable[..., ArrowOfTime | FrameOrder],
    num_frames: int,
    steps: int,
    place: str,
    guard: dict[str, float],
) -> None:
    batch = batch_of(with_a_clock(place, num_frames))
    off = {"margin": 0, "soften": 1}
    assert learnt(make(**off), batch, steps) > 0.9
    guarded_top1 = learnt(make(**{**off, **guard}), batch, steps)
    assert guarded_top1 == pytest.approx(0.5, abs=0.05)


def test_clips_that_stand_still_are_not_asked_about() -> None:
    batch = make_batch("arrow_of_time")
    clips = batch["views"]["global_crops"]
    clips[:, :6] = clips[:, :6, :1]
    for method in (arrow(min_motion=0.01), order(min_motion=0.01)):
        out = method(batch)
        assert out["moving"] == 0.5
        changed = batch_of(clips[0].clone())
        changed["views"]["global_crops"][:, :6] += 1
        changed["sample_id"], changed["epoch"] = batch["sample_id"], batch["epoch"]
        method.eval()
        assert method(changed)["loss"].item() == pytest.approx(method(batch)["loss"].item())


def test_motion_is_the_mean_change_of_a_value() -> None:
    frames = torch.zeros(1, 3, 3, 4, 4)
    frames[:, 2] = 0.5
    assert motion(frames).tolist() == [[0.0, 0.5]]


def test_guards_leave_the_rest_of_a_clip_as_it_is() -> None:
    clips = torch.randn(2, 3, 3, 20, 20)
    seen = guarded(clips, MotionGuards(margin=0.1, soften=1))
    assert torch.equal(seen[..., 2:18, 2:18], clips[..., 2:18, 2:18])
    assert seen.count_nonzero() == 2 * 3 * 3 * 16 * 16
    coarse = guarded(clips, MotionGuards(margin=0, soften=4))
    assert coarse[0, 0, 0, :4, :4].tolist() == pytest.approx(
        np.full((4, 4), float(clips[0, 0, 0, :4, :4].mean()))
    )


def test_a_mean_of_frames_is_refused_where_order_is_asked_about() -> None:
    with pytest.raises(ValueError, match="averages frames"):
        build_method(ArrowOfTimeConfig(), FRAMES, ArrowOfTime.default_views(16), 0)
    with pytest.raises(ValueError, match=r"set encoder\.time=frames"):
        build_method(FrameOrderConfig(), INFLATED, FrameOrder.default_views(16), 0)


def test_triplets_in_order_are_the_inner_three_read_either_way() -> None:
    triplets = order()._triplets(torch.rand(200, 4)).tolist()
    assert {tuple(right) for _, right in triplets} == {(1, 2, 3), (3, 2, 1)}
    strange = {(1, 0, 3), (3, 0, 1), (1, 4, 3), (3, 4, 1)}
    assert {tuple(wrong) for wrong, _ in triplets} == strange


def test_five_frames_are_taken_where_most_moves() -> None:
    changes = torch.full((1, 20), 0.01)
    changes[0, 13] = 1.0
    five, moved = order()._five(changes, torch.tensor([0.0]))
    assert five.diff().eq(5).all() and moved.item() > 0.1
    wide = torch.full((1, 11), 0.01)
    wide[0, 8] = 1.0
    five, _ = order()._five(wide, torch.tensor([0.0]))
    first, second, third, fourth, fifth = five[0].tolist()
    assert second <= 8 < fourth and fifth <= 11 and fourth - second == 2 * (third - second)
    anywhere, _ = order(by_motion=False)._five(wide, torch.tensor([0.0]))
    assert anywhere[0, 0] == 0 != first


def test_short_clips_have_no_order_to_ask_about() -> None:
    with pytest.raises(ValueError, match="num_frames>=5"):
        order()(batch_of(torch.randn(2, 4, 3, 16, 16)))
