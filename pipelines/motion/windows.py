"""Where a clip may begin in a video whose changes are known: where it moves, and within one
scene."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from pipelines.media.contract import Changes, Clip
from pipelines.motion.optical_flow import FlowKind

Motion = Literal["any", "weighted", "moving"]
MotionBy = Literal["change", "dis", "farneback"]
_NEAR = 2  # frames to either side
STILL = 0.25  # of the most that moves in any window of the video: less is left out by "moving"


@dataclass(frozen=True)
class Rule:
    """Which windows of a video are taken.

    Attributes:
        motion: "any": all alike; "weighted": as likely as they move; "moving": all alike of those
            that do not stand still beside the others. Of a video in which nothing moves, any.
        cross_cuts: Whether a clip may show more than one scene.
        crop_bars: Whether dark bars at the sides are cut away.
        by: What motion is: how much values change, or how far places move by a kind of optical
            flow.
    """

    motion: Motion = "any"
    cross_cuts: bool = True
    crop_bars: bool = False
    by: MotionBy = "change"

    @property
    def flow(self) -> FlowKind | None:
        """Return the kind of flow that must be known; None: of any kind or none."""
        return None if self.by == "change" or self.motion == "any" else self.by

    @property
    def plain(self) -> bool:
        """Tell whether any window of the whole picture is taken."""
        return (self.motion, self.cross_cuts, self.crop_bars) == ("any", True, False)


ANY_WINDOW = Rule()


def placed(clip: Clip, changes: Changes, rule: Rule) -> Clip:
    """Say when a clip begins, and its others.

    A position p, the key's draw, is where the share p of all weight lies before: windows of equal
    weight are drawn as without a rule, and the stretches of several clips of a video hold as much
    weight each.

    Args:
        clip: With positions.
        changes: Of its video.
        rule: Which windows are taken.
    """
    bars = changes.bars if rule.crop_bars else clip.bars
    if rule.motion == "any" and rule.cross_cuts:
        return _replaced(clip, (), bars)
    windows = _Windows.of(clip, changes)
    weights = windows.weights(rule)
    if not weights.any():  # every window of that length crosses a cut
        weights = np.ones(windows.num_instants)
        span = windows.still
    else:
        span = windows.span
    first = _at(weights, clip.position)
    low, high = clip.others_from(first, len(weights), changes.rate)
    near = weights[low : high + 1]
    places = [first, *(low + _at(near, other) for other in clip.others)]
    return _replaced(clip, tuple(span(place) for place in places), bars)


def _replaced(clip: Clip, spans: Sequence[tuple[float, float]], bars: Sequence[float]) -> Clip:
    top, bottom, left, right = bars
    return replace(clip, spans=tuple(spans), bars=(top, bottom, left, right))


def _at(weights: np.ndarray, position: float) -> int:
    """Return the place before which the share `position` of the weight lies."""
    summed = np.cumsum(weights)
    place = int(np.searchsorted(summed, position * summed[-1], side="right"))
    return min(place, int(np.flatnonzero(weights)[-1]))


def _steady(changes: Changes, by: MotionBy) -> np.ndarray:
    """Return what of each frame's change is motion, (N,): no more than at a frame near it.

    A cut is none, and neither is a change alone among frames that stand still: at key frames
    compression begins anew, by which a picture that stands still changes by 0.003.
    """
    measured = changes.changes if by == "change" else changes.flow
    assert measured is not None
    moved = np.where(changes.cuts, 0.0, measured)
    padded = np.pad(moved, _NEAR)
    shifts = (shift for shift in range(2 * _NEAR + 1) if shift != _NEAR)
    around = np.max([padded[shift : shift + len(moved)] for shift in shifts], axis=0)
    steady: np.ndarray = np.minimum(moved, around)
    return steady


@dataclass(frozen=True, eq=False)
class _Windows:
    """The windows of a clip's length in a video.

    Attributes:
        changes: Of the video.
        begins: Of each window, amid a frame at the nominal rate, seconds, (P,).
        span_s: From a window's first instant to its last.
        cuts: When another scene begins, seconds.
    """

    changes: Changes
    begins: np.ndarray
    span_s: float
    cuts: np.ndarray

    @classmethod
    def of(cls, clip: Clip, changes: Changes) -> "_Windows":
        places = np.arange(clip.num_places(changes.end_s - changes.start_s, changes.rate))
        begins = changes.start_s + (places + 0.5) / changes.rate
        span_s = (clip.num_frames - 1) * clip.step_s(changes.rate)
        return cls(changes, begins, span_s, changes.times[changes.cuts])

    @property
    def num_instants(self) -> int:
        """Return the frames of the video at its nominal rate."""
        return max(1, round((self.changes.end_s - self.changes.start_s) * self.changes.rate))

    def weights(self, rule: Rule) -> np.ndarray:
        """Return how likely each window is, (P,), up to a factor; all 0 where every one crosses a
        cut."""
        lasts = self.begins + self.span_s
        allowed = np.ones(len(self.begins))
        if not rule.cross_cuts:
            before, behind = (np.searchsorted(self.cuts, t, "right") for t in (self.begins, lasts))
            allowed = (before == behind).astype(np.float64)
        if rule.motion == "any":
            return allowed
        moved = self._moved(self.begins, lasts, rule.by) * allowed
        if not moved.any():
            return allowed
        return moved if rule.motion == "weighted" else (moved >= STILL * moved.max()).astype(float)

    def _moved(self, begins: np.ndarray, lasts: np.ndarray, by: MotionBy) -> np.ndarray:
        """Sum what changes within each window, but for cuts, (P,)."""
        changes = self.changes
        summed = np.cumsum(np.concatenate([[0.0], _steady(changes, by)]))
        first, last = (np.searchsorted(changes.times, t, "right") for t in (begins, lasts))
        # A difference of sums may come out a rounding away from nothing.
        moved: np.ndarray = np.where(last > first, summed[last] - summed[first], 0.0)
        return np.where(moved > 1e-9, moved, 0.0)

    def span(self, place: int) -> tuple[float, float]:
        """Return the first and the latest instant of a clip in a window."""
        return float(self.begins[place]), float("inf")

    def still(self, place: int) -> tuple[float, float]:
        """Return them of a clip in the scene that is on display at a place, whose last frame then
        stays."""
        changes = self.changes
        shown = changes.start_s + (place + 0.5) / changes.rate
        starts = np.concatenate([[-np.inf], self.cuts, [np.inf]])
        scene = int(np.searchsorted(starts, shown, "right"))
        frames = np.flatnonzero(
            (changes.times >= starts[scene - 1]) & (changes.times < starts[scene])
        )
        ends = np.append(changes.times[1:], max(changes.end_s, changes.times[-1]))
        amid = (changes.times + ends) / 2
        latest = float("inf") if scene == len(starts) - 1 else float(amid[frames[-1]])
        return float(amid[frames[0]]), latest
