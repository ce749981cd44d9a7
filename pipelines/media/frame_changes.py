"""How much a video changes from each of its frames to the next, where it is cut, and what of its
sides is a dark bar: one pass over all of it, at a small size.

A cut is a frame unlike the one before in its pixels and in its colours, between frames that change
far less. What moves fast changes as much, but for several frames on end, and keeps its colours; a
flash is no cut, for behind it stands what stood before.
"""

from collections.abc import Callable

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from pipelines.media.contract import BadSample, Changes, Limits, check_pixels
from pipelines.media.damage import Seekable, diagnosis
from pipelines.media.timeline import Ends, Timeline, video_stream
from pipelines.media.video import decoded_frames, opened, timed
from pipelines.motion.optical_flow import FlowKind, mean_motion

SIDE = 64  # of the small frames' longer side, px
FRAMES_IN_TIME = 500  # a sample's time limit is for so many frames
_ATTEMPTS = 2  # one more for a video whose header does not say when it ends
# Of 400 joins of real videos 99 % were found so, and none in 150 pans of up to a third of the
# width a frame; PySceneDetect's content and adaptive detectors found 97 and 94 %, and 101 and 1.
_LEAST_CHANGE = 0.05
_LEAST_COLOURS = 0.05
_TIMES_NEIGHBOURS = 2.0
_NEIGHBOURS = 2  # on either side
_DARK = 32  # of 255: no pixel of a bar is ever brighter
_MOST_BARS = 0.35  # of a side's length; where bars seem larger, the video is dark


def frame_changes(
    file: Seekable, limits: Limits, alive: Callable[[], None], flow: FlowKind | None = None
) -> Changes:
    """Look at every frame of a video.

    Args:
        file: The whole video, seekable.
        limits: Checked in the header; with `allow_truncated` it ends at the first damage.
        alive: Called each `FRAMES_IN_TIME` frames.
        flow: How to look for motion as well; None: not at all.

    Raises:
        BadSample: there is no video, it is damaged, or it is beyond the limits.
    """
    end_s = None
    for _ in range(_ATTEMPTS):
        file.seek(0)
        try:
            return _attempt(file, limits, alive, end_s, flow)
        except Ends as ends:
            end_s = ends.end_s
        except (BadSample, MemoryError):
            raise
        except Exception as error:  # whatever a parser trips over is a property of the bytes
            raise diagnosis(file, error) from error
    raise BadSample("corrupt", "nothing says when it ends")


def _attempt(
    file: Seekable,
    limits: Limits,
    alive: Callable[[], None],
    end_s: float | None,
    flow: FlowKind | None,
) -> Changes:
    with opened(file) as container:
        stream = video_stream(container)
        check_pixels(stream.codec_context.height, stream.codec_context.width, limits.max_pixels)
        timeline = Timeline.of(container, stream, end_s)
        timeline.check(limits)
        frames = decoded_frames(container, stream, limits, sought=False)
        looked = _Looked(flow)
        shown_s = timeline.start_s
        for shown in timed(container, frames, timeline):
            check_pixels(shown.frame.height, shown.frame.width, limits.max_pixels)
            looked.look(shown.frame, shown.from_s)
            shown_s = shown.end_s
            if len(looked.times) % FRAMES_IN_TIME == 0:
                alive()
        if not looked.times:
            raise BadSample("no_video", "a video stream without frames")
        return looked.found(timeline, shown_s)


class _Looked:
    """What was seen of a video so far.

    Args:
        flow: How motion is looked for; None: it is not.
    """

    def __init__(self, flow: FlowKind | None) -> None:
        self._kind = flow
        self._flow: list[float] = []
        self.times: list[float] = []
        self._changes: list[float] = []
        self._over_two: list[float] = []  # of each frame to the one before the one before
        self._colours: list[float] = []
        self._last: list[np.ndarray] = []  # the two last small frames, the newest first
        self._histogram = np.empty(0)
        self._brightest = np.empty(0)
        self._rotation = 0
        self._convert = VideoReformatter()

    def look(self, frame: VideoFrame, time_s: float) -> None:
        """Compare a frame with the two before it."""
        small = self._small(frame)
        histogram = _histogram(small)
        grey = small.max(axis=2)
        before = self._last
        self._changes.append(_difference(small, before[0]) if before else 0.0)
        self._over_two.append(_difference(small, before[1]) if len(before) > 1 else 0.0)
        self._colours.append(float(np.abs(histogram - self._histogram).sum()) / 2 if before else 0)
        self._brightest = np.maximum(self._brightest, grey) if before else grey
        if self._kind is not None:
            self._flow.append(mean_motion(before[0], small, self._kind) if before else 0.0)
        self.times.append(time_s)
        self._histogram = histogram
        self._last = [small, *before[:1]]

    def _small(self, frame: VideoFrame) -> np.ndarray:
        if self._last:
            height, width = self._last[0].shape[:2]
        else:
            scale = SIDE / max(frame.height, frame.width)
            height, width = (max(1, round(n * scale)) for n in (frame.height, frame.width))
            self._rotation = frame.rotation
        small: np.ndarray = self._convert.reformat(
            frame, width=width, height=height, format="rgb24", interpolation=Interpolation.AREA
        ).to_ndarray()
        return small

    def found(self, timeline: Timeline, end_s: float) -> Changes:
        """Sum up."""
        changes = np.array(self._changes)
        cuts = _cuts(changes, np.array(self._over_two), np.array(self._colours))
        return Changes(
            timeline.start_s,
            end_s,
            timeline.rate,
            np.array(self.times),
            changes,
            cuts,
            _bars(np.rot90(self._brightest, 0 if self._rotation % 90 else self._rotation // 90)),
            None if self._kind is None else np.array(self._flow),
        )


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(np.int16) - other).mean()) / 255


def _histogram(small: np.ndarray) -> np.ndarray:
    """Return the share of pixels in each of 4 x 4 x 4 boxes of colours, (64,)."""
    boxes = (small >> 6).reshape(-1, 3) @ np.array([16, 4, 1], np.uint8)
    return np.bincount(boxes, minlength=64) / len(boxes)


def _cuts(changes: np.ndarray, over_two: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Tell the frames that begin another scene, (N,) bool.

    Args:
        changes: Of each frame to the one before, (N,).
        over_two: Of each frame to the one before that, (N,).
        colours: Share of pixels whose colours are others than in the frame before, (N,).
    """
    count = len(changes)
    padded = np.pad(changes, _NEIGHBOURS)
    shifts = (*range(_NEIGHBOURS), *range(_NEIGHBOURS + 1, 2 * _NEIGHBOURS + 1))
    around = np.max([padded[shift : shift + count] for shift in shifts], axis=0)
    stays = np.append(over_two[1:], np.inf) >= changes / 2  # else a flash: what was before is back
    cuts: np.ndarray = (
        (changes >= _LEAST_CHANGE)
        & (colours >= _LEAST_COLOURS)
        & (changes >= _TIMES_NEIGHBOURS * around)
        & stays
    )
    return cuts


def _bars(brightest: np.ndarray) -> tuple[float, float, float, float]:
    """Return the share of the height that is dark above and below, and of the width left and right.

    Args:
        brightest: Of each place the brightest value it ever has, (H, W).
    """
    bars = list[float]()
    for lines in (brightest.max(axis=1), brightest.max(axis=0)):
        bright = np.flatnonzero(lines > _DARK)
        ends = (bright[0], len(lines) - 1 - bright[-1]) if len(bright) else (len(lines), 0)
        bars += [end / len(lines) for end in ends]
    top, bottom, left, right = bars
    if top + bottom > 2 * _MOST_BARS or left + right > 2 * _MOST_BARS:
        return 0.0, 0.0, 0.0, 0.0
    return top, bottom, left, right
