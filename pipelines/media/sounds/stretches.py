"""Stretches out of sounds: files of sound alone, or the soundtrack of a video.

All channels become one, and whatever rate a file has becomes the one that is asked for. A short
sound is decoded whole, of a long one what lies around each stretch.
"""

from collections.abc import Iterator

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer

from pipelines.media.contract import BadSample, Limits, Track, Windows
from pipelines.media.damage import Seekable, diagnosis, is_cut
from pipelines.media.video import CONTAINERS

_OF_SOUND = "wav,w64,flac,mp3,aac,aiff,caf"
_BUFFER_BYTES = 1 << 18
_WHOLE_S = 30.0  # of a longer sound only what lies around the stretches is decoded
_LEAD_S = 0.5  # decoded ahead of a stretch: what a codec needs to have heard before
_LATE_S = 0.1  # by which time stamps may be off
_SHORTFALL_S = 1.0  # a whole stream may end so much before its header says
_MOST_BROKEN = 0.1  # of the packets: a tag at the end of an MP3 file is taken for one
_SOFTEST = 33  # of int16, 60 dB below full scale
# Their headers say how long they are; what others say is FFmpeg's guess.
_COUNTED = ("wav", "flac", "aiff", "mov,mp4,m4a,3gp,3g2,mj2")


def decode_windows(file: Seekable, windows: Windows, limits: Limits) -> np.ndarray:
    """Decode stretches of a sound.

    Args:
        file: The whole file, seekable.
        windows: Which stretches.
        limits: `max_duration_s` counts; `allow_truncated` takes what there is before a cut.

    Returns:
        (N, L) int16, one channel at the rate that is asked for.

    Raises:
        BadSample: there is no sound, it is damaged, cut off, too long, or silent in every stretch.
    """
    found = _decoded(file, windows, limits)
    _check_heard(found)
    return found


def decode_track(file: Seekable, track: Track, limits: Limits) -> np.ndarray:
    """Decode what of a video's sound goes with a clip.

    Args:
        file: The whole video, seekable.
        track: Which stretches.
        limits: As of `decode_windows`.

    Returns:
        (1, L) int16, (2, L) where a second stretch is asked for: zeros where there is no place for
        it.

    Raises:
        BadSample: there is no sound, it is damaged, cut off, too long, or silent in the first
            stretch.
    """
    file.seek(0)
    found = _decoded(file, track, limits)
    _check_heard(found[:1])
    wanted = 1 if track.elsewhere is None else 2
    return np.pad(found, ((0, wanted - len(found)), (0, 0)))


def _decoded(file: Seekable, windows: Windows | Track, limits: Limits) -> np.ndarray:
    try:
        found = _sought(file, windows, limits)
        if found is None:
            file.seek(0)
            found = _cut(*_whole(file, windows.rate, limits), windows)
    except (BadSample, MemoryError):
        raise
    except Exception as error:  # whatever a parser trips over is a property of the bytes
        raise diagnosis(file, error) from error
    return found


def _check_heard(stretches: np.ndarray) -> None:
    loudest = int(np.abs(stretches.astype(np.int32)).max())
    if loudest < _SOFTEST:
        raise BadSample("silent", f"no sample is louder than {loudest} of 32767")


def _opened(file: Seekable) -> InputContainer:
    return av.open(
        file,
        "r",
        metadata_errors="replace",
        buffer_size=_BUFFER_BYTES,
        container_options={"format_whitelist": f"{_OF_SOUND},{CONTAINERS}"},
    )


def _stream(container: InputContainer) -> AudioStream:
    """Choose the stream that a player would play.

    Raises:
        BadSample: there is none, or none that can be decoded.
    """
    if not container.streams.audio:
        kinds = sorted({stream.type for stream in container.streams})
        raise BadSample("no_audio", f"no audio stream, but {', '.join(kinds) or 'none at all'}")
    playable = [one for one in container.streams.audio if one.codec_context is not None]
    if not playable:
        raise BadSample("unknown_type", "an audio codec that has no decoder here")
    best = container.streams.best("audio")
    stream = next((one for one in playable if best and one.index == best.index), playable[0])
    stream.codec_context.thread_count = 1  # the parallelism is Ray's: one task a logical CPU
    return stream


def _told_s(container: InputContainer, stream: AudioStream) -> float | None:
    """Return how long the headers say the sound is, seconds; None where they do not."""
    if stream.duration and stream.duration > 0:
        return float(stream.duration * (stream.time_base or 0))
    if container.duration and container.duration > 0:
        return container.duration / av.time_base
    return None


def _check_length(length_s: float, limits: Limits) -> None:
    if length_s > limits.max_duration_s:
        raise BadSample(
            "too_long", f"{length_s:,.0f} s, the limit is {limits.max_duration_s:,.0f} s"
        )


def _begin_s(stream: AudioStream) -> float:
    """Return when a sound begins, by the clock of its file."""
    return (stream.start_time or 0) * float(stream.time_base or 0)


def _sought(file: Seekable, windows: Windows | Track, limits: Limits) -> np.ndarray | None:
    """Decode what lies around each stretch of a long sound; None where that does not lead there, or
    it is not long."""
    with _opened(file) as container:
        stream = _stream(container)
        told_s = _told_s(container, stream)
        if told_s is None:
            return None
        _check_length(told_s, limits)
        if told_s <= max(_WHOLE_S, 2 * windows.size / windows.rate):
            return None
        stretches = []
        for first in windows.places(int(told_s * windows.rate), _begin_s(stream)):
            stretch = _stretch(container, stream, windows, first)
            if stretch is None:
                return None
            stretches.append(stretch)
        return np.stack(stretches)


def _stretch(
    container: InputContainer, stream: AudioStream, windows: Windows | Track, first: int
) -> np.ndarray | None:
    """Decode from a little before a stretch to its end, (L,) int16; None where the file does not
    lead there."""
    base = float(stream.time_base or 0)
    begin_s = _begin_s(stream)
    wanted_s = begin_s + first / windows.rate
    try:
        container.seek(int(max(wanted_s - _LEAD_S, begin_s) / base), stream=stream)
    except av.FFmpegError:
        return None
    frames = _frames(container, stream)
    head = next(frames, None)
    if head is None or head.pts is None or head.pts * base > wanted_s + _LATE_S:
        return None
    skipped = max(0, round((wanted_s - head.pts * base) * windows.rate))
    parts = list[np.ndarray]()
    needed = skipped + windows.size
    for part in _resampled(head, frames, windows.rate):
        parts.append(part)
        needed -= len(part)
        if needed <= 0:
            break
    if needed > _SHORTFALL_S * windows.rate or not parts:
        return None  # it ends earlier than it says
    samples = np.concatenate(parts)[skipped : skipped + windows.size]
    return np.pad(samples, (0, windows.size - len(samples)))


def _whole(file: Seekable, rate: int, limits: Limits) -> tuple[np.ndarray, float]:
    """Decode all of a sound, (N,) int16; and say when it begins."""
    with _opened(file) as container:
        stream = _stream(container)
        told_s = _told_s(container, stream)
        counted = container.format.name in _COUNTED
        begin_s = _begin_s(stream)
        frames = _frames(container, stream)
        head = next(frames, None)
        parts = list[np.ndarray]()
        length = 0
        for part in _resampled(head, frames, rate) if head is not None else ():
            parts.append(part)
            length += len(part)
            _check_length(length / rate, limits)
    if not length:
        raise BadSample("truncated" if is_cut(file) else "corrupt", "no sample of it is decoded")
    short_s = (told_s or 0.0) - length / rate
    if not limits.allow_truncated and (
        is_cut(file) or (counted and short_s > max(_SHORTFALL_S, 0.1 * length / rate))
    ):
        raise BadSample("truncated", f"the file ends after {length / rate:.2f} s of sound")
    return np.concatenate(parts), begin_s


def _frames(container: InputContainer, stream: AudioStream) -> Iterator[AudioFrame]:
    """Decode from where the container stands, without packets that are none.

    Raises:
        FFmpegError: too many packets cannot be decoded.
    """
    num_broken = 0
    for num_packets, packet in enumerate(container.demux(stream), start=1):
        try:
            yield from packet.decode()
        except av.FFmpegError:
            num_broken += 1
            if num_broken > 2 + _MOST_BROKEN * num_packets:
                raise


def _resampled(head: AudioFrame, rest: Iterator[AudioFrame], rate: int) -> Iterator[np.ndarray]:
    """Yield frames as pieces of one channel at a rate, (n,) int16."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)
    frame: AudioFrame | None = head
    while frame is not None:
        frame.pts = None  # what is left out is not filled in
        for made in resampler.resample(frame):
            yield made.to_ndarray().reshape(-1)
        frame = next(rest, None)
    for made in resampler.resample(None):
        yield made.to_ndarray().reshape(-1)


def _cut(samples: np.ndarray, begin_s: float, windows: Windows | Track) -> np.ndarray:
    """Cut stretches out of a sound (N,); what lies outside it is silence."""
    places = windows.places(len(samples), begin_s)
    found = np.zeros((len(places), windows.size), np.int16)
    for stretch, first in zip(found, places, strict=True):
        inside = samples[max(first, 0) : first + windows.size]
        stretch[max(-first, 0) :][: len(inside)] = inside
    return found
