"""Clips out of video files: a few frames at given instants, reached by seeking, never the whole
file.

A frame is chosen by time, as the one on display at an instant, so a variable frame rate needs
nothing special. Rotation from the metadata is applied; tone curves of HDR and pixels that are not
square are left as they are.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import dropwhile, islice, pairwise

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from pipelines.media.contract import BadSample, Clip, Limits, check_pixels
from pipelines.media.damage import Seekable, diagnosis, is_cut
from pipelines.media.timeline import Ends, Timeline, video_stream

# Containers that refer to nothing outside themselves: a playlist in hostile bytes would have FFmpeg
# open other files.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,flv,ogg,asf,"
    "h264,hevc,ivf,mxf,rm"
)
_BUFFER_BYTES = 1 << 20  # FFmpeg's default of 32 KiB would be a request to storage each time
# Some demuxers land behind the instant they are asked for: then from further ahead, at last from
# the beginning.
_LEADS_S = (0.0, 5.0, float("inf"))
_ATTEMPTS = 6  # one for each lead, and as many for an end that turns out to be another one
_SHORTFALL_S = 1.0  # a whole stream may end so much before its header says
_STEP_BACK_S = 0.5  # by which time stamps go back only where another stream was appended
_LOOK_AHEAD = 3  # packets that FFmpeg's parsers may lie behind the file
_SEEK_S = 2.0  # from one wanted frame to the next, where the file does not list its key frames


@dataclass(frozen=True)
class Decoded:
    """A clip.

    Attributes:
        frames: (T, H, W, 3) uint8, upright, contiguous; of several clips one after the other.
        times: Presentation time of each frame, seconds.
        num_decoded: Frames that had to be decoded for it.
        end_s: When the latest frame has been shown, seconds.
        lasts_s: How long the whole video is, as its headers say.
    """

    frames: np.ndarray
    times: list[float]
    num_decoded: int
    end_s: float
    lasts_s: float


class _Late(Exception):
    """The first frame after a seek is on display only later than it is wanted."""


def decode_clip(file: Seekable, clip: Clip, limits: Limits) -> Decoded:
    """Decode the frames of one clip.

    Args:
        file: The whole video, seekable.
        clip: Which frames. Where the video is shorter than the clip its last frame is repeated. A
            group of pictures that several clips of a sample need is decoded once.
        limits: Checked in the header; `allow_truncated` repeats the last frame before the cut.

    Raises:
        BadSample: there is no video, it is damaged or cut off where the clip lies, or it is beyond
            the limits.
    """
    leads = list(_LEADS_S)
    end_s = None
    for _ in range(_ATTEMPTS):
        file.seek(0)
        try:
            return _attempt(file, clip, limits, lead_s=leads[0], end_s=end_s)
        except _Late:
            if len(leads) == 1:
                break
            leads.pop(0)
        except Ends as ends:
            end_s = ends.end_s
            if not ends.stamped:  # nothing to go by but the number of a frame
                leads = leads[-1:]
        except (BadSample, MemoryError):
            raise
        except Exception as error:  # whatever a parser trips over is a property of the bytes
            raise diagnosis(file, error) from error
    raise BadSample("corrupt", "the index does not lead to the frames")


def opened(file: Seekable) -> InputContainer:
    """Open a video, which can refer to nothing outside itself.

    Raises:
        FFmpegError: it is none.
    """
    return av.open(
        file,
        "r",
        metadata_errors="replace",
        buffer_size=_BUFFER_BYTES,
        container_options={"format_whitelist": CONTAINERS},
    )


def _attempt(
    file: Seekable, clip: Clip, limits: Limits, *, lead_s: float, end_s: float | None
) -> Decoded:
    """Decode from the last key frame at least `lead_s` before the clip."""
    with opened(file) as container:
        stream = video_stream(container)
        check_pixels(stream.codec_context.height, stream.codec_context.width, limits.max_pixels)
        timeline = Timeline.of(container, stream, end_s)
        timeline.check(limits)
        instants = timeline.instants(clip)
        taken = _Taken()
        num_decoded = 0
        for run in _runs(sorted(set(instants)), stream, timeline, lead_s):
            target = run[0] - lead_s
            sought = target > timeline.start_s + timeline.period_s
            if sought:
                try:
                    container.seek(int(target / (stream.time_base or 1)), stream=stream)
                except av.FFmpegError:
                    raise _Late from None
            frames = decoded_frames(container, stream, limits, sought=sought)
            shown = timed(container, frames, timeline)
            count, shown_s = _pick(taken, shown, run, limits, sought=sought)
            num_decoded += count
            if min(run[-1], timeline.end_s) - shown_s > _SHORTFALL_S:
                _check_end(file, shown_s, timeline, limits)
        lasts_s = timeline.end_s - timeline.start_s
        pixels = taken.clip(instants, clip.bars)
        return Decoded(pixels, taken.times(instants), num_decoded, shown_s, lasts_s)


def _runs(
    instants: list[float], stream: VideoStream, timeline: Timeline, lead_s: float
) -> list[list[float]]:
    """Split ascending instants where seeking to the next one decodes less than going on to it."""
    if instants[-1] - instants[0] <= _SEEK_S:
        return [instants]
    base = float(stream.time_base or 0)
    keys = np.array([each.timestamp * base for each in stream.index_entries if each.is_keyframe])
    runs = [instants[:1]]
    for before, instant in pairwise(instants):
        target = instant - lead_s
        if len(keys) > 1:
            place = int(np.searchsorted(keys, target, side="right")) - 1
            gains = place >= 0 and keys[place] > before
        else:
            gains = target - before > _SEEK_S
        if gains and target > timeline.start_s + timeline.period_s:
            runs.append([instant])
        else:
            runs[-1].append(instant)
    return runs


def decoded_frames(
    container: InputContainer, stream: VideoStream, limits: Limits, *, sought: bool
) -> Iterator[VideoFrame]:
    """Decode from where the container stands; with `allow_truncated` up to the first damage.

    Args:
        container: Where it stands.
        stream: What of it.
        limits: Whether damage is an end.
        sought: Whether the container was sent there, so that it may not stand at a key frame.
    """
    packets: Iterator[Packet] = container.demux(stream)
    # MPEG-TS is left anywhere; what follows up to a key frame would come out grey, and not marked
    # so
    if sought:
        packets = dropwhile(lambda packet: not packet.is_keyframe, packets)
    try:
        for packet in packets:
            whole = packet
            if packet.is_corrupt and packet.size:
                whole = _behind_join(packet, packets)
            yield from whole.decode()
    except av.InvalidDataError:
        if not limits.allow_truncated:
            raise


def _behind_join(packet: Packet, packets: Iterator[Packet]) -> Packet:
    """Leave out what a stream ends with where another one was appended: the first packet of that.

    At such a join FFmpeg takes the last packets of an MPEG transport stream for incomplete, as
    they may be.

    Raises:
        InvalidDataError: the packet is damaged, and nothing was appended there.
    """
    for following in islice(packets, _LOOK_AHEAD):
        stamps = following.dts, packet.dts
        goes_back = None not in stamps and stamps[0] < stamps[1]  # type: ignore[operator]
        if goes_back and following.is_keyframe:
            return following
    raise av.InvalidDataError(0, "an incomplete packet")


@dataclass(frozen=True)
class Shown:
    """A frame, from when on it is on display, and the end of all frames up to it."""

    frame: VideoFrame
    from_s: float
    end_s: float


def timed(
    container: InputContainer, frames: Iterator[VideoFrame], timeline: Timeline
) -> Iterator[Shown]:
    """Say of every frame when it is on display; appended streams follow one another."""
    # AVI stores no presentation times; FFmpeg's guess goes back and forth where there are B-frames.
    by_dts = container.format.name == "avi"
    last_s = timeline.start_s - timeline.period_s
    end_s = timeline.start_s
    offset_s = 0.0
    for frame in frames:
        base = frame.time_base or 0
        stamp = frame.dts if by_dts else frame.pts
        from_s = last_s + timeline.period_s if stamp is None else float(stamp * base) + offset_s
        if from_s < last_s - _STEP_BACK_S:
            offset_s += end_s - from_s
            from_s = end_s
        # The last frame in the file, not always the last one shown, may stay for long.
        end_s = max(end_s, from_s + max(timeline.period_s, float((frame.duration or 0) * base)))
        last_s = from_s
        yield Shown(frame, from_s, end_s)


def _pick(
    taken: "_Taken",
    frames: Iterator[Shown],
    instants: list[float],
    limits: Limits,
    *,
    sought: bool,
) -> tuple[int, float]:
    """Take the frame on display at each of ascending instants, in one pass.

    Returns:
        How many frames were decoded, and when the last of those that were looked at has been shown.
    """
    shown: Shown | None = None
    num_decoded = 0
    left = deque(instants)
    for following in frames:
        num_decoded += 1
        check_pixels(following.frame.height, following.frame.width, limits.max_pixels)
        if shown is None and sought and following.from_s > instants[0]:
            raise _Late
        while shown is not None and left and left[0] < following.from_s:
            taken.take(left.popleft(), shown.frame, shown.from_s)
        if not left:
            return num_decoded, following.from_s
        shown = following
    if shown is None:
        raise _Late if sought else BadSample("no_video", "a video stream without frames")
    while left:
        taken.take(left.popleft(), shown.frame, shown.from_s)
    return num_decoded, shown.end_s


def _check_end(file: Seekable, end_s: float, timeline: Timeline, limits: Limits) -> None:
    """Tell a stream that is over from one that was cut off.

    Raises:
        Ends: it is over, before its container says.
        BadSample: it was cut off.
    """
    if not timeline.promised or is_cut(file) is False:
        raise Ends(end_s)
    if not limits.allow_truncated:
        raise BadSample("truncated", f"{end_s:.2f} of {timeline.end_s:.2f} s are left")


class _Taken:
    """Frames by the instants at which they are on display, converted to RGB; one that is shown at
    several instants only once."""

    def __init__(self) -> None:
        self._pixels: dict[float, np.ndarray] = {}  # by presentation time
        self._time_at: dict[float, float] = {}  # by instant
        self._rotation = 0
        self._convert = VideoReformatter()

    def take(self, instant: float, frame: VideoFrame, time_s: float) -> None:
        """Keep a frame, at the size of the first.

        Raises:
            BadSample: the decoder concealed damage in it.
        """
        self._time_at[instant] = time_s
        if time_s in self._pixels:
            return
        if frame.is_corrupt:
            raise BadSample("corrupt", f"the frame at {time_s:.2f} s is damaged")
        height, width = frame.height, frame.width
        if self._pixels:
            height, width = next(iter(self._pixels.values())).shape[:2]
        else:
            self._rotation = frame.rotation
        rgb = self._convert.reformat(frame, width=width, height=height, format="rgb24")
        self._pixels[time_s] = rgb.to_ndarray()

    def times(self, instants: list[float]) -> list[float]:
        """Return the presentation time of the frame at each instant."""
        return [self._time_at[instant] for instant in instants]

    def clip(self, instants: list[float], bars: Sequence[float]) -> np.ndarray:
        """Stack the frames at these instants upright and without the bars, (T, H, W, 3)."""
        frames = np.stack([self._pixels[time_s] for time_s in self.times(instants)])
        if self._rotation % 90 == 0:  # else some other display matrix, or none that makes sense
            frames = np.rot90(frames, self._rotation // 90, axes=(1, 2))
        height, width = frames.shape[1:3]
        top, bottom = (math.ceil(bar * height) for bar in bars[:2])
        left, right = (math.ceil(bar * width) for bar in bars[2:])
        return np.ascontiguousarray(frames[:, top : height - bottom, left : width - right])
