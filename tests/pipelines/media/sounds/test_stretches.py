"""Stretches of real encodings: the right ones, at the right rate; what is wrong with the rest."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest

from pipelines.media.contract import BadSample, Limits, Windows
from pipelines.media.decoder import Decoder
from pipelines.media.sounds.stretches import decode_windows

MIDDLE = Windows(16_000, 1_600, (0.5,))
LONG_S = 40.0  # more is not decoded whole


def sweep(rate: int, seconds: float) -> np.ndarray:
    """A tone that rises by 20 Hz a second from 200 Hz: how high says when, (N,) int16."""
    t = np.arange(int(seconds * rate)) / rate
    return (np.sin(2 * np.pi * (200 + 10 * t) * t) * 20_000).astype(np.int16)


def encoded(samples: np.ndarray, rate: int, form: str, codec: str, layout: str = "mono") -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.layout = layout
        wanted = stream.codec_context.format or "s16"
        resampler = av.AudioResampler(format=wanted, layout=layout, rate=rate)
        for start in range(0, len(samples), 1024):
            part = samples[start : start + 1024][None]
            frame = av.AudioFrame.from_ndarray(part, format="s16", layout="mono")
            frame.sample_rate = rate
            frame.pts = start
            frame.time_base = Fraction(1, rate)
            for made in resampler.resample(frame):
                container.mux(stream.encode(made))
        container.mux(stream.encode(None))
    return file.getvalue()


def wav(samples: np.ndarray, rate: int = 16_000) -> bytes:
    return encoded(samples, rate, "wav", "pcm_s16le")


def pitch(samples: np.ndarray, rate: int) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 1 << 15))
    return float(spectrum.argmax() * rate / (1 << 15))


def windows_of(data: bytes, windows: Windows = MIDDLE, limits: Limits | None = None) -> np.ndarray:
    return decode_windows(io.BytesIO(data), windows, limits or Limits())


def reason(data: bytes, limits: Limits | None = None) -> str:
    with pytest.raises(BadSample) as caught:
        windows_of(data, limits=limits)
    return caught.value.reason


@pytest.mark.parametrize(
    ("form", "codec", "rate", "layout"),
    [
        ("wav", "pcm_s16le", 11_025, "mono"),
        ("wav", "pcm_s16le", 96_000, "mono"),
        ("flac", "flac", 44_100, "stereo"),
        ("mp3", "libmp3lame", 44_100, "stereo"),
        ("ogg", "libopus", 48_000, "mono"),
        ("ipod", "aac", 22_050, "mono"),
    ],
)
@pytest.mark.parametrize("seconds", [2.0, LONG_S])
def test_a_stretch_of_any_encoding_is_what_is_heard_there(
    form: str, codec: str, rate: int, layout: str, seconds: float
) -> None:
    data = encoded(sweep(rate, seconds), rate, form, codec, layout)
    stretches = windows_of(data, Windows(16_000, 1_600, (0.25, 0.75)))
    assert stretches.shape == (2, 1_600) and stretches.dtype == np.int16
    for stretch, position in zip(stretches, (0.25, 0.75), strict=True):
        middle_s = position * (seconds - 0.1) + 0.05
        assert pitch(stretch, 16_000) == pytest.approx(200 + 20 * middle_s, abs=4)


def test_the_places_of_stretches_go_from_the_first_sample_to_the_last() -> None:
    samples = np.arange(1, 8_001, dtype=np.int16)
    first, last = windows_of(wav(samples), Windows(16_000, 800, (0.0, 1.0)))
    assert np.array_equal(first, samples[:800]) and np.array_equal(last, samples[-800:])


def test_a_shorter_sound_lies_whole_in_silence_where_it_is_drawn() -> None:
    samples = np.full(400, 9_000, np.int16)
    first, middle, last = windows_of(wav(samples), Windows(16_000, 1_000, (0.0, 0.5, 1.0)))
    assert np.array_equal(np.flatnonzero(first), np.arange(600, 1_000)[-400:] - 600)
    assert np.array_equal(np.flatnonzero(middle), np.arange(300, 700))
    assert np.array_equal(np.flatnonzero(last), np.arange(600, 1_000))


def test_what_cannot_be_used_has_a_reason() -> None:
    good = wav(sweep(16_000, 2.0))
    assert reason(good[: len(good) // 2]) == "truncated"
    assert reason(good[:44]) == "truncated"
    assert reason(b"hello world" * 1_000) == "unknown_type"
    assert reason(wav(np.zeros(8_000, np.int16))) == "silent"
    assert reason(wav(np.ones(8_000, np.int16))) == "silent"
    assert reason(good, Limits(max_duration_s=1.0)) == "too_long"


def test_a_sound_that_was_cut_off_can_be_taken_as_far_as_it_goes() -> None:
    good = wav(sweep(16_000, 2.0))
    stretch = windows_of(good[: len(good) // 2], limits=Limits(allow_truncated=True))
    assert pitch(stretch[0], 16_000) == pytest.approx(210, abs=4)


def test_the_decoder_process_gives_the_same_stretches_of_bytes_and_of_a_file_in_parts() -> None:
    data = wav(sweep(16_000, 3 * LONG_S))

    class Parts:
        size = len(data)
        read_bytes = 0

        def read(self, offset: int, length: int) -> bytes:
            self.read_bytes += length
            return data[offset : offset + length]

    decoder = Decoder(Limits())
    parts = Parts()
    try:
        whole = decoder.sound(data, MIDDLE)
        assert np.array_equal(whole, windows_of(data))
        assert np.array_equal(decoder.sound(parts, MIDDLE), whole)
        with pytest.raises(BadSample, match="empty"):
            decoder.sound(b"", MIDDLE)
    finally:
        decoder.close()
    assert parts.read_bytes < len(data) / 2


def test_a_film_without_sound_is_told_from_one_with_silence() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert reason(file.getvalue()) == "no_audio"
