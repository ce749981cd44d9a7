"""What decoders are asked for, what a file may cost them, and what they answer where it cannot be
used."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

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
    """

    num_frames: int
    frame_stride: int
    fps: float | None
    position: float
    others: tuple[float, ...] = ()
    max_gap_s: float | None = None


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
