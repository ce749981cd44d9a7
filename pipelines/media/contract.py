"""What decoders are asked for, what a file may cost them, and what they answer where it cannot be
used."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

# from an image's height and width to how much smaller it may be decoded
Reduce = Callable[[int, int], int]

Reason = Literal[
    "empty",
    "unknown_type",
    "truncated",
    "corrupt",
    "too_many_pixels",
    "too_large",  # in bytes, or in the memory that decoding would take
    "too_long",
    "no_video",
    "timeout",
    "crashed",
    "checksum",
    "missing",
    # by the storage, which hands out others; new ones go to the end, for blocks hold an index
    "refused",
    "unsupported",
    "mask",  # that belongs to it: cannot be used, or is of another size
    "boxes",  # that belong to it are of an image of another size
    "pair",  # its second image: is missing, cannot be used, or is of another size
    "caption",  # is missing, empty or no text
    "no_audio",
    "silent",  # what was taken of its sound
    "encoding",  # of a text is not UTF-8
    "field",  # of a text: its JSON object cannot be read, or has not the text
]
REASONS: tuple[Reason, ...] = get_args(Reason)


class BadSample(Exception):
    """A sample that cannot be used, through no fault of the machine: to be counted and skipped,
    never retried.

    Attributes:
        reason: What to count it under.
        message: What the decoder said, for a person.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(reason, message)
        self.reason: Reason = reason
        self.message = message

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


@dataclass(frozen=True)
class Limits:
    """What a file may cost, checked in its header before anything is decoded.

    Attributes:
        max_pixels: Of an image, or of each frame of a video.
        max_bytes: Of the file; a larger one is not fetched.
        max_frames: Of a video.
        max_duration_s: Of a video.
        timeout_s: Time to decode one sample; fetching does not count.
        allow_truncated: Take what there is of a file that was cut off, the rest grey or still.
        value_range: Which values of an image of more than 8 bits become black and white: `type`,
            those of the type; `auto`, by the file's own word, else as `type`; or two numbers.
        bands: Channels of a TIFF file that are shown, from 1 on: one, or red, green and blue;
            none: those of an ordinary picture.
    """

    max_pixels: int = 100_000_000
    max_bytes: int = 2**30
    max_frames: int = 2_000_000
    max_duration_s: float = 43_200.0
    timeout_s: float = 60.0
    allow_truncated: bool = False
    value_range: str | tuple[float, float] = "auto"
    bands: tuple[int, ...] = ()


@dataclass(frozen=True)
class Track:
    """Which stretches of a video's sound go with a clip: the one around the middle of its frames,
    and perhaps one at another time.

    Attributes:
        rate: Samples a second, to which the sound is resampled, Hz.
        size: L, the length of each stretch, samples at that rate.
        elsewhere: In [0, 1]: where the second lies among all places it can take; None: there is
            none.
        gap_s: How much earlier or later than the first the second is, at least and at most,
            seconds.
        centre_s: The middle of the frames, by the clock of the video, seconds.
    """

    rate: int
    size: int
    elsewhere: float | None = None
    gap_s: tuple[float, float] = (0.0, 0.0)
    centre_s: float = 0.0

    def places(self, length: int, begin_s: float) -> list[int]:
        """Return at which sample each stretch begins; below 0 where silence comes first.

        The first is moved inside a sound that is long enough. The second lies inside, or there is
        none: silence at an end would tell it from the first.

        Args:
            length: Samples of the sound.
            begin_s: When it begins, by the clock of the video, seconds.
        """
        last = length - self.size
        if last < 0:
            return [last // 2]
        wanted = (self.centre_s - begin_s) * self.rate - self.size / 2
        first = min(max(round(wanted), 0), last)
        if self.elsewhere is None:
            return [first]
        nearest, farthest = (round(gap * self.rate) for gap in self.gap_s)
        before = max(0, min(farthest, first) - nearest + 1)
        after = max(0, min(farthest, last - first) - nearest + 1)
        if not before + after:
            return [first]
        drawn = min(int(self.elsewhere * (before + after)), before + after - 1)
        gap = -(nearest + drawn) if drawn < before else nearest + drawn - before
        return [first, first + gap]


@dataclass(frozen=True)
class Clip:
    """Which frames of a video make a sample.

    Attributes:
        num_frames: T.
        frame_stride: Frames from one to the next, at the video's nominal rate; where `fps` is None.
        fps: Frames per second of the clip, whatever the video's rate.
        position: In [0, 1]: where among all places that the clip can take; 0.5 is the middle.
        others: Positions of further clips of the same sample, whose frames follow those of the
            first; with `max_gap_s` in [0, 1] between the earliest and the latest begin it allows.
        max_gap_s: How much earlier or later than the first the others begin at most, seconds; None:
            anywhere.
        spans: When each clip begins, and its latest instant, seconds: a frame that were later is
            that one again. Where there are any, positions say nothing more.
        bars: What is cut away above, below, left and right: shares of height and width.
        track: What of its sound goes with it; None: nothing.
    """

    num_frames: int
    frame_stride: int
    fps: float | None
    position: float
    others: tuple[float, ...] = ()
    max_gap_s: float | None = None
    spans: tuple[tuple[float, float], ...] = ()
    bars: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    track: Track | None = None

    def step_s(self, rate: float) -> float:
        """Return the time from a frame of the clip to the next, in a video of this rate."""
        return 1 / self.fps if self.fps else self.frame_stride * (1 / rate)

    def num_places(self, duration_s: float, rate: float) -> int:
        """Return at how many frames of a video the clip can begin; 1 where it is longer."""
        num_frames = max(1, round(duration_s * rate))
        num_spanned = int((self.num_frames - 1) * self.step_s(rate) * rate + 1e-6) + 1
        return max(1, num_frames - num_spanned + 1)

    def others_from(self, first: int, num_places: int, rate: float) -> tuple[int, int]:
        """Return the first and the last place of the others, where the first clip begins at one."""
        if self.max_gap_s is None:
            return 0, num_places - 1
        gap = int(self.max_gap_s * rate)
        return max(first - gap, 0), min(first + gap, num_places - 1)


@dataclass(frozen=True)
class Windows:
    """Which stretches of a sound make a sample.

    Attributes:
        rate: Samples a second, to which the sound is resampled, Hz.
        size: L, the length of each stretch, samples at that rate.
        positions: In [0, 1]: where each lies among all places it can take; 0.5 is the middle. A
            sound that is shorter lies so in a stretch that is silent else.
    """

    rate: int
    size: int
    positions: tuple[float, ...]

    def first(self, length: int, position: float) -> int:
        """Return at which sample of a sound of this length a stretch begins; below 0 where silence
        comes first."""
        places = abs(length - self.size) + 1
        place = min(int(position * places), places - 1)
        return place if length > self.size else -place

    def places(self, length: int, begin_s: float) -> list[int]:
        """Return at which sample of a sound of this length each stretch begins, whenever it
        does."""
        return [self.first(length, position) for position in self.positions]


@dataclass(frozen=True)
class Changes:
    """What one pass over a video finds.

    Attributes:
        start_s: Presentation time of the first frame.
        end_s: When the last frame has been shown.
        rate: Nominal frames per second.
        times: From when on each frame is on display, seconds, (N,) float64, ascending.
        changes: Mean absolute difference of each frame's values to the one before, RGB in [0, 1],
            (N,) float64; 0 for the first.
        cuts: Whether each frame is the first of another scene, (N,) bool.
        bars: What of the height is dark bar above and below, and of the width left and right.
        flow: How far places have moved since the frame before by optical flow, mean, as a share of
            the longer side, (N,) float64; 0 for the first. None: it was not looked for.
    """

    start_s: float
    end_s: float
    rate: float
    times: np.ndarray
    changes: np.ndarray
    cuts: np.ndarray
    bars: tuple[float, float, float, float]
    flow: np.ndarray | None = None


def check_pixels(height: int, width: int, max_pixels: int) -> None:
    """Refuse an image that is too large.

    Raises:
        BadSample: `too_many_pixels`.
    """
    if height * width > max_pixels:
        raise BadSample(
            "too_many_pixels",
            f"{height} x {width} = {height * width:,} pixels, the limit is {max_pixels:,}",
        )
