"""The sound that goes with a clip: what is heard while its frames are seen."""

import io

import numpy as np
import pytest

from pipelines.media.contract import BadSample, Clip, Limits, Track
from pipelines.media.decoder import Decoder
from pipelines.media.sounds.stretches import decode_track
from tests.pipelines.media.sounds.films import RATE, film, pitch, sweep
from tests.pipelines.media.videos import number_of

SIZE = 1_600  # 0.1 s


def clip(position: float, num_frames: int = 3, **track: object) -> Clip:
    return Clip(num_frames, 1, None, position, track=Track(RATE, SIZE, **track))  # type: ignore[arg-type]


def asked(
    decoder: Decoder, data: bytes, position: float, **track: object
) -> tuple[int, np.ndarray]:
    """The number of the frame in the middle of a clip, and the sound that comes with it."""
    found = decoder.clip(data, clip(position, **track))
    assert found.sound is not None and found.pixels.shape == (3, 48, 64, 3)
    return number_of(found.pixels[1]), found.sound


@pytest.mark.parametrize(
    ("kind", "codec", "late_s", "seconds"),
    [
        ("matroska", "pcm_s16le", 0.0, 6.0),
        ("mp4", "aac", 0.0, 6.0),
        ("mpegts", "aac", 0.0, 6.0),  # whose clock begins at 1.4 s
        ("matroska", "pcm_s16le", 0.8, 6.0),
        ("matroska", "libopus", 0.0, 6.0),
        ("matroska", "pcm_s16le", 0.8, 40.0),  # too long to be decoded whole
        ("mp4", "aac", 0.0, 40.0),
    ],
)
def test_the_sound_is_that_heard_while_the_frames_are_seen(
    kind: str, codec: str, late_s: float, seconds: float
) -> None:
    rate = 48_000 if codec == "libopus" else RATE
    data = film(sweep(seconds, rate), seconds, kind=kind, codec=codec, rate=rate, late_s=late_s)
    decoder = Decoder(Limits())
    try:
        for position in (0.3, 0.8):
            number, sound = asked(decoder, data, position)
            assert sound.shape == (1, SIZE) and sound.dtype == np.int16
            heard_s = (pitch(sound[0]) - 200) / 20  # of the sound
            turns = round((position * seconds - number / 10) / 25.6)  # numbers go up to 255
            seen_s = number / 10 + 25.6 * turns
            assert heard_s == pytest.approx(seen_s - late_s, abs=0.15)
    finally:
        decoder.close()


def test_at_the_ends_the_stretch_is_moved_inside_and_a_short_track_lies_in_silence() -> None:
    track = Track(RATE, SIZE)
    data = film(np.full(4_000, 9_000, np.int16), 1.0)
    for centre_s in (0.0, 0.25, 5.0):
        found = decode_track(io.BytesIO(data), Track(RATE, SIZE, centre_s=centre_s), Limits())
        assert (found == 9_000).all()
    assert track.places(100, 0.0) == [-750]
    short = decode_track(io.BytesIO(film(np.full(400, 9_000, np.int16), 1.0)), track, Limits())
    assert np.array_equal(np.flatnonzero(short[0]), np.arange(600, 1_000))


def test_a_second_stretch_lies_inside_and_within_its_bounds_anywhere_there() -> None:
    length, size, gap = 400, 50, (60, 150)
    for centre in (0, 130, 200, 390):
        drawn = [
            Track(1, size, u, gap, centre_s=float(centre)).places(length, 0.0)
            for u in np.linspace(0, 1, 2_000)
        ]
        first = {places[0] for places in drawn}
        assert first == {min(max(centre - 25, 0), length - size)}
        start = first.pop()
        allowed = [
            place for place in range(length - size + 1) if gap[0] <= abs(place - start) <= gap[1]
        ]
        assert {places[1] for places in drawn} == set(allowed)


def test_where_there_is_no_place_for_a_second_stretch_it_is_zeros() -> None:
    data = film(sweep(1.0), 1.0)
    gap = {"elsewhere": 0.9, "gap_s": (0.3, 0.6)}
    decoder = Decoder(Limits())
    try:
        _, sound = asked(decoder, data, 0.2, **gap)
        assert sound.shape == (2, SIZE) and 6 < pitch(sound[1]) - pitch(sound[0]) < 13
        _, alone = asked(decoder, data, 0.2, elsewhere=0.9, gap_s=(2.0, 3.0))
        assert alone.shape == (2, SIZE) and np.array_equal(alone[0], sound[0])
        assert not alone[1].any()
    finally:
        decoder.close()


def test_no_audio_stream_and_silence_are_reasons() -> None:
    reasons = {}
    decoder = Decoder(Limits())
    half = np.concatenate([np.zeros(RATE, np.int16), sweep(1.0)])
    films = {
        "mute": film(None, 2.0),
        "silent": film(np.zeros(2 * RATE, np.int16), 2.0),
        "begins silent": film(half, 2.0),
    }
    try:
        for name, data in films.items():
            with pytest.raises(BadSample) as caught:
                decoder.clip(data, clip(0.1))
            reasons[name] = caught.value.reason
            decoder.clip(data, Clip(3, 1, None, 0.1))  # whose frames are good
        assert decoder.clip(films["begins silent"], clip(0.9)).sound is not None
    finally:
        decoder.close()
    assert reasons == {"mute": "no_audio", "silent": "silent", "begins silent": "silent"}
