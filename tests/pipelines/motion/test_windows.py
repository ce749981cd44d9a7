"""Where clips begin in videos of which it is known how they change."""

from dataclasses import replace

import numpy as np
import pytest

from pipelines.media.contract import Changes, Clip
from pipelines.media.timeline import Timeline
from pipelines.motion.windows import STILL, Rule, placed

RATE = 25.0


def changes_of(values: list[float], cuts: tuple[int, ...] = (), times: object = None) -> Changes:
    """A video with these changes from frame to frame."""
    at = np.arange(len(values)) / RATE if times is None else np.array(times)
    is_cut = np.isin(np.arange(len(values)), cuts)
    end_s = float(at[-1]) + 1 / RATE
    return Changes(0.0, end_s, RATE, at, np.array(values), is_cut, (0.0, 0.0, 0.0, 0.0))


def shown(clip: Clip, changes: Changes) -> list[int]:
    """Numbers of the frames of a clip."""
    num_frames = (changes.end_s - changes.start_s) * changes.rate
    timeline = Timeline(changes.start_s, changes.end_s, changes.rate, num_frames, True)
    instants = timeline.instants(clip)
    return [int(np.searchsorted(changes.times, instant, "right")) - 1 for instant in instants]


def positions(num: int) -> list[float]:
    return [(number + 0.5) / num for number in range(num)]


@pytest.mark.parametrize(("frames", "stride", "fps", "length"), [
    (4, 3, None, 60), (1, 1, None, 9), (8, 4, None, 10), (5, 1, 7.0, 80), (3, 2, None, 5),
])  # fmt: skip
def test_without_cuts_or_motion_the_windows_are_those_of_no_rule(
    frames: int, stride: int, fps: float | None, length: int
) -> None:
    still = changes_of([0.0] * length)
    for rule in (Rule("any", False), Rule("weighted"), Rule("moving", False)):
        for position in positions(37):
            clip = Clip(frames, stride, fps, position, (0.1, 0.9), 0.5)
            assert shown(placed(clip, still, rule), still) == shown(clip, still)


def test_windows_are_drawn_as_often_as_they_move() -> None:
    values = [0.0, *np.random.default_rng(0).uniform(0, 0.1, 29).tolist()]
    moving = changes_of(values)
    clip = Clip(5, 1, None, 0.0)
    drawn = [
        shown(placed(replace(clip, position=position), moving, Rule("weighted")), moving)[0]
        for position in positions(20_000)
    ]
    steady = [
        min(value, max(values[max(0, at - 2) : at] + values[at + 1 : at + 3]))
        for at, value in enumerate(values)
    ]
    expected = [sum(steady[first + 1 : first + 5]) for first in range(26)]
    share = np.bincount(drawn, minlength=26) / len(drawn)
    assert share == pytest.approx(np.array(expected) / sum(expected), abs=1e-4)


def test_still_windows_are_left_out_and_those_that_move_are_drawn_alike() -> None:
    values = [0.0] * 20 + [0.05] * 10 + [0.002] * 20
    video = changes_of(values)
    drawn = [
        shown(placed(Clip(4, 1, None, position), video, Rule("moving")), video)[0]
        for position in positions(2000)
    ]
    moved = np.array([sum(values[first + 1 : first + 4]) for first in range(47)])
    allowed = np.flatnonzero(moved >= STILL * moved.max())
    counts = np.bincount(drawn, minlength=47)
    assert np.flatnonzero(counts).tolist() == allowed.tolist()
    assert np.ptp(counts[allowed]) <= 1


def test_neither_a_cut_nor_what_compression_changes_at_key_frames_is_motion() -> None:
    keyed = changes_of([0.0, *[0.003 if at % 12 == 11 else 0.0 for at in range(40)]])
    for rule in (Rule("weighted"), Rule("moving")):
        drawn = {shown(placed(Clip(3, 1, None, at), keyed, rule), keyed)[0] for at in positions(99)}
        assert drawn == set(range(39))
    values = [0.0] * 30
    values[10] = 0.5
    values[20:25] = [0.02] * 5
    video = changes_of(values, cuts=(10,))
    for position in positions(50):
        first, *_, last = shown(placed(Clip(3, 1, None, position), video, Rule("moving")), video)
        assert last >= 20 and first < 25


@pytest.mark.parametrize("cuts", [(1,), (29,), (15,), (7, 8, 20), (1, 29)])
@pytest.mark.parametrize("frames", [1, 4, 12])
@pytest.mark.parametrize("motion", ["any", "weighted", "moving"])
def test_no_clip_crosses_a_cut(cuts: tuple[int, ...], frames: int, motion: str) -> None:
    values = np.random.default_rng(1).uniform(0, 0.1, 30).tolist()
    video = changes_of(values, cuts)
    scene = np.cumsum(np.isin(np.arange(30), cuts))
    seen = set[int]()
    for position in positions(60):
        clip = Clip(frames, 1, None, position, (0.2, position))
        numbers = shown(placed(clip, video, Rule(motion, cross_cuts=False)), video)  # type: ignore[arg-type]
        for one in np.split(np.array(numbers), 3):
            assert len(set(scene[one].tolist())) == 1
            steps = np.diff(one)
            assert set(steps.tolist()) <= {0, 1}  # what is too short stays
        seen.update(numbers)
    if frames == 1 and motion == "any":
        assert seen == set(range(30))


def test_where_every_window_would_cross_a_cut_each_scene_is_drawn_and_stays() -> None:
    video = changes_of([0.0] * 20, cuts=(5, 10, 15))
    drawn = {
        tuple(shown(placed(Clip(8, 1, None, position), video, Rule("any", False)), video))
        for position in positions(40)
    }
    scenes = [range(first, first + 5) for first in (0, 5, 10, 15)]
    assert drawn == {(*scene, *[scene[-1]] * 3) for scene in scenes}


def test_a_video_shorter_than_the_clip_and_one_of_a_single_frame_are_held() -> None:
    short = changes_of([0.0, 0.1, 0.1])
    single = changes_of([0.0])
    for rule in (Rule("weighted"), Rule("moving", False), Rule("any", False)):
        for position in (0.0, 0.5, 0.999, 1.0):
            clip = Clip(5, 1, None, position)
            assert shown(placed(clip, short, rule), short) == [0, 1, 2, 2, 2]
            assert shown(placed(clip, single, rule), single) == [0] * 5
    cut = changes_of([0.0, 0.3, 0.1], cuts=(1,))
    for position, expected in ((0.1, [0] * 4), (0.9, [1, 2, 2, 2])):
        clip = Clip(4, 1, None, position)
        assert shown(placed(clip, cut, Rule("any", False)), cut) == expected


def test_a_variable_frame_rate_is_gone_by_time() -> None:
    times = [0.0, 0.04, 0.08, 2.0, 2.04, 2.08, 4.0]
    video = changes_of([0.0, 0.05, 0.05, 0.4, 0.05, 0.05, 0.0], cuts=(3,), times=times)
    for position in positions(100):
        numbers = shown(placed(Clip(4, 2, None, position), video, Rule("any", False)), video)
        assert max(numbers) < 3 or min(numbers) >= 3
        moving = shown(placed(Clip(4, 2, None, position), video, Rule("moving", False)), video)
        assert len(set(moving)) > 1  # never the seconds for which a frame stays


def test_other_clips_lie_near_the_first_and_the_clips_of_a_video_in_their_order() -> None:
    values = [0.0] * 50 + [0.05] * 20 + [0.0] * 50 + [0.05] * 20
    video = changes_of(values)
    rule = Rule("weighted")
    for position in positions(40):
        for other in positions(5):
            clip = Clip(3, 1, None, position, (other,), max_gap_s=0.4)
            numbers = shown(placed(clip, video, rule), video)
            assert abs(numbers[3] - numbers[0]) <= 10
            assert sum(values[numbers[3] + 1 : numbers[5] + 1]) > 0
    first, second = (
        [shown(placed(Clip(3, 1, None, (index + draw) / 2), video, rule), video)[0] for draw in
         positions(30)]
        for index in (0, 1)
    )  # fmt: skip
    assert max(first) < 75 < min(second)


def test_bars_are_cut_away_where_that_is_asked_for() -> None:
    video = replace(changes_of([0.0] * 9), bars=(0.1, 0.2, 0.0, 0.3))
    clip = Clip(3, 1, None, 0.4)
    assert placed(clip, video, Rule(crop_bars=True)).bars == (0.1, 0.2, 0.0, 0.3)
    assert placed(clip, video, Rule(crop_bars=True)).spans == ()
    assert placed(clip, video, Rule("weighted")).bars == clip.bars


def test_motion_is_what_the_rule_says_it_is() -> None:
    changes, flow = np.zeros(40), np.zeros(40)
    changes[1:9] = 0.2  # a lamp
    flow[25:33] = 0.05
    video = replace(changes_of(changes.tolist()), flow=flow)
    clip = Clip(4, 1, None, 0.0)
    for by, span in (("change", range(8)), ("dis", range(22, 33))):
        rule = Rule("weighted", by=by)
        assert rule.flow == (None if by == "change" else by) and not rule.plain
        begins = {
            shown(placed(replace(clip, position=p), video, rule), video)[0] for p in positions(99)
        }
        assert begins <= set(span) and len(begins) > 5
    assert Rule("any", by="dis").plain and Rule("any", by="dis").flow is None
