"""Makes small films with sound."""

import io
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np

from tests.pipelines.media.videos import frame

RATE = 16_000


def sweep(seconds: float, rate: int = RATE) -> np.ndarray:
    """A tone that rises by 20 Hz a second from 200 Hz: how high says when, (N,) int16."""
    t = np.arange(int(seconds * rate)) / rate
    return (np.sin(2 * np.pi * (200 + 10 * t) * t) * 20_000).astype(np.int16)


def pitch(samples: np.ndarray, rate: int = RATE) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 1 << 15))
    return float(spectrum.argmax() * rate / (1 << 15))


def film(
    samples: np.ndarray | None,
    seconds: float,
    *,
    kind: str = "matroska",
    codec: str = "pcm_s16le",
    rate: int = RATE,
    fps: int = 10,
    late_s: float = 0.0,
    pictures: Sequence[np.ndarray] | None = None,
) -> bytes:
    """Encode frames that tell their number, or pictures, and beside them a sound.

    Args:
        samples: (N,) int16; None: there is no sound.
        seconds: Of the frames.
        kind: Container.
        codec: Of the sound.
        rate: Samples a second.
        fps: Frames a second.
        late_s: When the sound begins.
        pictures: RGB of the frames, (H, W, 3) uint8 of even sides.
    """
    count = round(seconds * fps)
    pictures = [frame(number % 256) for number in range(count)] if pictures is None else pictures
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        video = container.add_stream("libx264", rate=fps)
        video.height, video.width = pictures[0].shape[:2]
        video.pix_fmt = "yuv420p"
        video.codec_context.gop_size = 5
        audio = None if samples is None else container.add_stream(codec, rate=rate, layout="mono")
        for number in range(count):
            picture = av.VideoFrame.from_ndarray(pictures[number], format="rgb24")
            picture.pts = number
            picture.time_base = Fraction(1, fps)
            container.mux(video.encode(picture))
        container.mux(video.encode())
        if audio is not None and samples is not None:
            wanted = audio.codec_context.format or "s16"
            resampler = av.AudioResampler(format=wanted, layout="mono", rate=rate)
            for start in range(0, len(samples), 1024):
                part = samples[start : start + 1024][None]
                sound = av.AudioFrame.from_ndarray(part, format="s16", layout="mono")
                sound.sample_rate = rate
                sound.pts = start + round(late_s * rate)
                sound.time_base = Fraction(1, rate)
                for made in resampler.resample(sound):
                    container.mux(audio.encode(made))
            container.mux(audio.encode(None))
    return buffer.getvalue()
