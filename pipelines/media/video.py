"""Clips out of video files: a few frames at given instants, reached by seeking, never the whole file.

A frame is chosen by time, as the one on display at an instant, so a variable frame rate needs nothing special. Rotation
from the metadata is applied; tone curves of HDR and pixels that are not square are left as they are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import dropwhile
from typing import Protocol

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from pipelines.media.image import BadSample, Clip, Limits, check_pixels

# Containers that refer to nothing outside themselves: a playlist in hostile bytes would have FFmpeg open other files.
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,flv,ogg,asf,h264,hevc,ivf,mxf,rm"
_MAGIC = (
    *(
        b"\x1aE\xdf\xa3",
        b"RIFF",
        b"FLV",
        b"OggS",
        b"\0\0\1\xba",
        b"\0\0\1\xb3",
        b"\0\0\0\1",
        b"0&\xb2u",
    ),
    *(b"\x06\x0e\x2b\x34", b".RMF", b"DKIF"),
)
_MP4_BOXES = (
    b"ftyp",
    b"moov",
    b"mdat",
    b"moof",
    b"free",
    b"skip",
    b"wide",
    b"styp",
    b"sidx",
    b"uuid",
    b"meta",
    b"pnot",
)
_BUFFER_BYTES = 1 << 20  # FFmpeg's default of 32 KiB would be a request to storage each time
_DEFAULT_RATE = Fraction(25)
# Some demuxers land behind the instant they are asked for: then from further ahead, at last from the beginning.
_LEADS_S = (0.0, 5.0, float("inf"))
_SHORTFALL_S = 1.0  # a whole stream may end so much before its header says


@dataclass(frozen=True)
class Decoded:
    """A clip.

    Attributes:
        frames: (T, H, W, 3) uint8, upright, contiguous.
        times: Presentation time of each frame, seconds.
        num_decoded: Frames that had to be decoded for it.
    """

    frames: np.ndarray
    times: list[float]
    num_decoded: int


class Seekable(Protocol):
    """What is asked of a file."""

    def read(self, size: int = ..., /) -> bytes:
        """Read the next bytes."""

    def seek(self, offset: int, whence: int = ..., /) -> int:
        """Move to a place."""


class _Late(Exception):
    """The first frame after a seek is on display only later than it is wanted."""


class _Ends(Exception):
    """The stream ends at another time than its container says, or the container does not say."""

    def __init__(self, end_s: float) -> None:
        super().__init__(end_s)
        self.end_s = end_s


def decode_clip(file: Seekable, clip: Clip, limits: Limits) -> Decoded:
    """Decode the frames of one clip.

    Args:
        file: The whole video, seekable.
        clip: Which frames. Where the video is shorter than the clip its last frame is repeated.
        limits: Checked in the header; `allow_truncated` repeats the last frame before the cut.

    Raises:
        BadSample: there is no video, it is damaged or cut off where the clip lies, or it is beyond the limits.
    """
    leads, end_s = list(_LEADS_S), None
    while leads:
        file.seek(0)
        try:
            return _attempt(file, clip, limits, lead_s=leads[0], end_s=end_s)
        except _Late:
            leads.pop(0)
        except _Ends as ends:
            if end_s is not None:
                break
            end_s = ends.end_s
        except (BadSample, MemoryError):
            raise
        except Exception as error:  # whatever a parser trips over is a property of the bytes
            raise _diagnosis(file, error) from error
    raise BadSample("corrupt", "the index does not lead to the frames")


def _attempt(
    file: Seekable, clip: Clip, limits: Limits, *, lead_s: float, end_s: float | None
) -> Decoded:
    """Decode from the last key frame at least `lead_s` before the clip."""
    with av.open(
        file,
        "r",
        metadata_errors="replace",
        buffer_size=_BUFFER_BYTES,
        container_options={"format_whitelist": _CONTAINERS},
    ) as container:
        stream = _video_stream(container)
        check_pixels(stream.codec_context.height, stream.codec_context.width, limits.max_pixels)
        timeline = Timeline.of(container, stream, end_s)
        timeline.check(limits)
        instants = timeline.instants(clip)
        target = instants[0] - lead_s
        sought = target > timeline.start_s + timeline.period_s
        if sought:
            try:
                container.seek(int(target / (stream.time_base or 1)), stream=stream)
            except av.FFmpegError:
                raise _Late from None
        frames = _frames(container, stream, limits, sought=sought)
        return _pick(_timed(container, frames, timeline), instants, timeline, limits, sought=sought)


def _video_stream(container: InputContainer) -> VideoStream:
    """Find the stream to decode; the cover picture of a piece of music is no video."""
    for stream in container.streams.video:
        if stream.disposition & av.stream.Disposition.attached_pic:
            continue
        if stream.codec_context is None:
            raise BadSample("unknown_type", "a video codec that has no decoder here")
        stream.codec_context.thread_count = 1  # the parallelism is Ray's: one task a logical CPU
        return stream
    kinds = sorted({stream.type for stream in container.streams})
    raise BadSample("no_video", f"no video stream, but {', '.join(kinds) or 'none at all'}")


@dataclass(frozen=True)
class Timeline:
    """When a stream begins and ends.

    Attributes:
        start_s: Presentation time of the first frame.
        end_s: When the last frame has been shown.
        rate: Nominal frames per second.
        own: The end was read in the stream's own header, and not in the container's, which has sound as well.
    """

    start_s: float
    end_s: float
    rate: float
    own: bool

    @classmethod
    def of(cls, container: InputContainer, stream: VideoStream, end_s: float | None) -> "Timeline":
        """Read the headers; `end_s` where it is known better.

        Raises:
            _Ends: they do not say.
        """
        rate = stream.guessed_rate or _DEFAULT_RATE
        rate = rate if 0 < rate <= 1000 else _DEFAULT_RATE
        base, own = stream.time_base or Fraction(1, 1000), False
        start_s = float((stream.start_time or 0) * base)
        if end_s is None and stream.duration and stream.duration > 0:
            end_s, own = start_s + float(stream.duration * base), True
        elif end_s is None and container.duration and container.duration > 0:
            end_s = max(container.duration / av.time_base, start_s)
        elif end_s is None:
            stamps = [packet.pts for packet in container.demux(stream) if packet.pts is not None]
            raise _Ends(float(max(stamps, default=0) * base + 1 / rate))
        return cls(start_s, end_s, float(rate), own)

    @property
    def period_s(self) -> float:
        """Nominal time from a frame to the next."""
        return 1 / self.rate

    def check(self, limits: Limits) -> None:
        """Refuse what is too long.

        Raises:
            BadSample: `too_long`.
        """
        duration_s = self.end_s - self.start_s
        if duration_s > limits.max_duration_s:
            raise BadSample(
                "too_long", f"{duration_s:,.0f} s, the limit is {limits.max_duration_s:,.0f} s"
            )
        if duration_s * self.rate > limits.max_frames:
            raise BadSample(
                "too_long",
                f"{duration_s * self.rate:,.0f} frames, the limit is {limits.max_frames:,}",
            )

    def instants(self, clip: Clip) -> list[float]:
        """Times that the clip shows, in the middle of frames so that rounded time stamps do not matter."""
        step_s = 1 / clip.fps if clip.fps else clip.frame_stride * self.period_s
        num_frames = max(1, round((self.end_s - self.start_s) * self.rate))
        num_spanned = int((clip.num_frames - 1) * step_s * self.rate + 1e-6) + 1
        num_places = max(1, num_frames - num_spanned + 1)
        first = min(int(clip.position * num_places), num_places - 1)
        return [
            self.start_s + (first + 0.5) * self.period_s + i * step_s
            for i in range(clip.num_frames)
        ]


def _frames(
    container: InputContainer, stream: VideoStream, limits: Limits, *, sought: bool
) -> Iterator[VideoFrame]:
    """Decode from where the container stands; with `allow_truncated` up to the first damage."""
    packets = container.demux(stream)
    if sought:  # MPEG-TS is left anywhere; what follows up to a key frame would come out grey, and not marked so
        packets = dropwhile(lambda packet: not packet.is_keyframe, packets)
    try:
        for packet in packets:
            if packet.is_corrupt and packet.size:
                raise av.InvalidDataError(0, "an incomplete packet")
            yield from packet.decode()
    except av.InvalidDataError:
        if not limits.allow_truncated:
            raise


def _timed(
    container: InputContainer, frames: Iterator[VideoFrame], timeline: Timeline
) -> Iterator[tuple[VideoFrame, float]]:
    """Pair every frame with the time from which it is shown."""
    # AVI stores no presentation times; FFmpeg's guess goes back and forth where there are B-frames.
    by_dts, now = container.format.name == "avi", timeline.start_s - timeline.period_s
    for frame in frames:
        stamp = frame.dts if by_dts else frame.pts
        now = now + timeline.period_s if stamp is None else float(stamp * (frame.time_base or 0))
        yield frame, now


def _pick(
    frames: Iterator[tuple[VideoFrame, float]],
    instants: list[float],
    timeline: Timeline,
    limits: Limits,
    *,
    sought: bool,
) -> Decoded:
    """Take the frame on display at each instant, in one pass."""
    taken = _Taken()
    shown: VideoFrame | None = None
    shown_s, num_decoded = 0.0, 0
    for frame, now in frames:
        num_decoded += 1
        check_pixels(frame.height, frame.width, limits.max_pixels)
        if shown is None and sought and now > instants[0]:
            raise _Late
        while (
            shown is not None
            and len(taken.times) < len(instants)
            and instants[len(taken.times)] < now
        ):
            taken.take(shown, shown_s)
        if len(taken.times) == len(instants):
            break
        shown, shown_s = frame, now
    if shown is None:
        raise _Late if sought else BadSample("no_video", "a video stream without frames")
    if len(taken.times) < len(instants):
        _check_end(shown_s + timeline.period_s, min(instants[-1], timeline.end_s), timeline, limits)
    while len(taken.times) < len(instants):
        taken.take(shown, shown_s)
    return Decoded(taken.clip(), taken.times, num_decoded)


def _check_end(end_s: float, wanted_s: float, timeline: Timeline, limits: Limits) -> None:
    """Tell a stream that is over from one that was cut off."""
    if wanted_s - end_s <= _SHORTFALL_S:
        return
    if not timeline.own:
        raise _Ends(end_s)
    if not limits.allow_truncated:
        raise BadSample("truncated", f"{end_s:.2f} of {timeline.end_s:.2f} s are left")


class _Taken:
    """Frames converted to RGB; one that is shown at several instants only once."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._pixels: list[np.ndarray] = []
        self._rotation = 0
        self._convert = VideoReformatter()

    def take(self, frame: VideoFrame, time_s: float) -> None:
        """Append a frame, at the size of the first.

        Raises:
            BadSample: the decoder concealed damage in it.
        """
        if self.times and self.times[-1] == time_s:
            self._pixels.append(self._pixels[-1])
        elif frame.is_corrupt:
            raise BadSample("corrupt", f"the frame at {time_s:.2f} s is damaged")
        else:
            height, width = (
                self._pixels[0].shape[:2] if self._pixels else (frame.height, frame.width)
            )
            rgb = self._convert.reformat(frame, width=width, height=height, format="rgb24")
            self._rotation = self._rotation if self._pixels else frame.rotation
            self._pixels.append(rgb.to_ndarray())
        self.times.append(time_s)

    def clip(self) -> np.ndarray:
        """Stack the frames upright, (T, H, W, 3)."""
        frames = np.stack(self._pixels)
        if self._rotation % 90:  # some other display matrix, or none that makes sense
            return frames
        return np.ascontiguousarray(np.rot90(frames, self._rotation // 90, axes=(1, 2)))


def _diagnosis(file: Seekable, error: Exception) -> BadSample:
    """Say what is wrong with bytes that FFmpeg cannot read on."""
    message = f"{type(error).__name__}: {error}"
    file.seek(0)
    head = file.read(512)
    is_stream = b"G" in (head[:1], head[4:5]) and b"G" in (
        head[188:189],
        head[196:197],
    )  # MPEG-TS and M2TS packets
    if not (head.startswith(_MAGIC) or head[4:8] in _MP4_BOXES or is_stream):
        return BadSample("unknown_type", f"no known video format, begins with {head[:16]!r}")
    return BadSample(
        "truncated" if head[4:8] in _MP4_BOXES and _is_cut(file) else "corrupt", message
    )


def _is_cut(file: Seekable) -> bool:
    """Tell whether the last box of an MP4 file goes on behind the end of the file."""
    size, begin = file.seek(0, 2), 0
    while begin < size:
        file.seek(begin)
        header = file.read(16)
        length = int.from_bytes(header[:4], "big")
        if length == 1:  # the length follows as 64 bits
            length = int.from_bytes(header[8:16], "big")
        if length < 8:  # zero: up to the end; else no box
            return False
        begin += length
    return begin > size
