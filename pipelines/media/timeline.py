"""Which stream of a video a player would show, and when that stream begins and ends."""

import math
from dataclasses import dataclass
from fractions import Fraction

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from pipelines.media.contract import BadSample, Clip, Limits

_DEFAULT_RATE = Fraction(25)
# Streams that are pictures about something else: a cover, a storyboard.
_PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails
# What these say of their length is FFmpeg's guess from the time stamps, so it promises nothing.
_WITHOUT_HEADER = ("mpegts", "mpeg", "mpegvideo", "h264", "hevc", "m4v", "ivf")
# of a header that is probably wrong, where looking closer costs little if it is not
_FEW_FRAMES = 2.5
# So many frames a second, and so many times the average, are the unit of a variable rate's stamps.
_HIGH_RATE = 130
_UNEVEN = 3


class Ends(Exception):
    """The stream ends at another time than its container says, or the container does not say.

    Attributes:
        end_s: When it ends.
        stamped: Whether its frames have time stamps, by which they can be sought.
    """

    def __init__(self, end_s: float, *, stamped: bool = True) -> None:
        super().__init__(end_s)
        self.end_s = end_s
        self.stamped = stamped


def video_stream(container: InputContainer) -> VideoStream:
    """Choose the stream that a player would show: a default one, and of those FFmpeg's choice.

    Raises:
        BadSample: there is none, or none that can be decoded.
    """
    videos = [stream for stream in container.streams.video if not stream.disposition & _PICTURES]
    if not videos:
        kinds = sorted({stream.type for stream in container.streams})
        raise BadSample("no_video", f"no video stream, but {', '.join(kinds) or 'none at all'}")
    playable = [stream for stream in videos if stream.codec_context is not None]
    if not playable:
        raise BadSample("unknown_type", "a video codec that has no decoder here")
    default = [stream for stream in playable if stream.disposition & Disposition.default]
    best = container.streams.best("video")
    chosen = default or playable
    stream = next((s for s in chosen if best is not None and s.index == best.index), chosen[0])
    stream.codec_context.thread_count = 1  # the parallelism is Ray's: one task a logical CPU
    return stream


@dataclass(frozen=True)
class Timeline:
    """When a stream begins and ends.

    Attributes:
        start_s: Presentation time of the first frame.
        end_s: When the last frame has been shown.
        rate: Nominal frames per second.
        num_frames: Of the stream, estimated where its header does not count them.
        promised: The stream's own header says when it ends; the container's covers sound as well.
    """

    start_s: float
    end_s: float
    rate: float
    num_frames: float
    promised: bool

    @classmethod
    def of(cls, container: InputContainer, stream: VideoStream, end_s: float | None) -> "Timeline":
        """Read the headers; `end_s` where it is known better.

        Raises:
            Ends: they do not say, or what they say is hardly true.
        """
        rate = _rate(stream)
        base = stream.time_base or Fraction(1, 1000)
        start_s = float((stream.start_time or 0) * base)
        promised = False
        if end_s is None:
            if stream.duration and stream.duration > 0:
                end_s = start_s + float(stream.duration * base)
                promised = container.format.name not in _WITHOUT_HEADER
            elif container.duration and container.duration > 0:
                end_s = max(container.duration / av.time_base, start_s)
            if end_s is None or (end_s - start_s) * rate < _FEW_FRAMES:
                raise _scanned(container, stream, base, rate)
        num_frames = (end_s - start_s) * rate
        if stream.frames:  # of AVI, ticks
            num_frames = min(num_frames, stream.frames)
        return cls(start_s, end_s, rate, num_frames, promised)

    @property
    def period_s(self) -> float:
        """Return the nominal time from a frame to the next."""
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
        if self.num_frames > limits.max_frames:
            raise BadSample(
                "too_long", f"{self.num_frames:,.0f} frames, the limit is {limits.max_frames:,}"
            )

    def instants(self, clip: Clip) -> list[float]:
        """Return the times that the clip shows, and then those of its others, amid frames.

        There, rounded time stamps do not matter.
        """
        step_s = clip.step_s(self.rate)
        spans = clip.spans or [
            (self.start_s + (place + 0.5) * self.period_s, math.inf) for place in self._places(clip)
        ]
        return [
            min(begin_s + i * step_s, latest_s)
            for begin_s, latest_s in spans
            for i in range(clip.num_frames)
        ]

    def _places(self, clip: Clip) -> list[int]:
        num_places = clip.num_places(self.end_s - self.start_s, self.rate)
        first = min(int(clip.position * num_places), num_places - 1)
        low, high = clip.others_from(first, num_places, self.rate)
        others = (min(low + int(other * (high - low + 1)), high) for other in clip.others)
        return [first, *others]


def _rate(stream: VideoStream) -> float:
    """Return the nominal frames per second; of some variable rates, the average."""
    rate = float(stream.guessed_rate or _DEFAULT_RATE)
    average = float(stream.average_rate or 0)
    if rate > _HIGH_RATE and 0 < average * _UNEVEN < rate:
        rate = average
    return rate if 0 < rate <= 1000 else float(_DEFAULT_RATE)


def _scanned(container: InputContainer, stream: VideoStream, base: Fraction, rate: float) -> Ends:
    """Read all packets, without decoding them, to learn when the last frame has been shown."""
    end = None
    num_packets = 0
    for packet in container.demux(stream):
        num_packets += packet.size > 0
        if packet.pts is not None:
            shown_until = packet.pts + (packet.duration or 1 / (rate * base))
            end = shown_until if end is None else max(end, shown_until)
    if end is None:
        return Ends(num_packets / rate, stamped=False)
    return Ends(float(end * base))
