"""What one pass over a video finds: how much changes, cuts, bars."""

import io

import numpy as np
import pytest
from PIL import Image

from pipelines.media.contract import BadSample, Changes, Limits
from pipelines.media.decoder import Decoder
from pipelines.media.frame_changes import FRAMES_IN_TIME, frame_changes
from tests.pipelines.media.videos import sound, video

HEIGHT, WIDTH = 96, 128


def look(data: bytes, limits: Limits | None = None) -> Changes:
    return frame_changes(io.BytesIO(data), limits or Limits(), lambda: None)


@pytest.fixture(scope="module")
def scenes(photographs: list[np.ndarray]) -> list[np.ndarray]:
    """Photographs twice as wide as a frame."""
    images = (Image.fromarray(photograph) for photograph in photographs[:4])
    return [np.array(image.convert("RGB").resize((2 * WIDTH, HEIGHT))) for image in images]


def shot(photograph: np.ndarray, num_frames: int, step: int = 2) -> list[np.ndarray]:
    """A camera that moves slowly to the right."""
    return [
        np.ascontiguousarray(photograph[:, number * step : number * step + WIDTH])
        for number in range(num_frames)
    ]


def encoded(frames: list[np.ndarray], **options: object) -> bytes:
    return video(len(frames), pictures=frames, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("cut", [1, 2, 11, 21, 22])
def test_a_cut_is_found_at_its_frame_wherever_it_lies(scenes: list[np.ndarray], cut: int) -> None:
    frames = [*shot(scenes[0], cut), *shot(scenes[1], 23 - cut)]
    found = look(encoded(frames))
    assert np.flatnonzero(found.cuts).tolist() == [cut]
    assert found.times[found.cuts] == pytest.approx([cut / 25], abs=1e-3)


def test_what_moves_fast_and_a_flash_are_no_cuts(scenes: list[np.ndarray]) -> None:
    wide = np.concatenate([scenes[2], scenes[2][:, ::-1]] * 6, axis=1)
    for step in (16, 32, 48):  # px of a width of 128, from rest and to rest
        offsets = [0, 0, 0, *(step * number for number in range(1, 20)), 19 * step, 19 * step]
        pan = [np.ascontiguousarray(wide[:, left : left + WIDTH]) for left in offsets]
        found = look(encoded(pan))
        assert not found.cuts.any() and found.changes[4:20].min() > 0.02
    flash = shot(scenes[0], 20)
    flash[9] = np.full_like(flash[9], 255)
    found = look(encoded(flash))
    assert not found.cuts.any() and found.changes[9] > 0.2


def test_changes_are_those_of_the_pixels(scenes: list[np.ndarray]) -> None:
    frames = shot(scenes[0], 12, step=6)
    found = look(encoded(frames))
    small = (
        np.stack(
            [
                np.array(Image.fromarray(frame).resize((64, 48), Image.Resampling.BOX))
                for frame in frames
            ]
        )
        / 255
    )
    expected = np.abs(np.diff(small, axis=0)).mean(axis=(1, 2, 3))
    assert found.changes[0] == 0
    assert found.changes[1:] == pytest.approx(expected, rel=0.1)


def test_a_video_that_stands_still_and_one_of_a_single_frame_change_nowhere(
    scenes: list[np.ndarray],
) -> None:
    still = look(encoded(shot(scenes[0], 20, step=0)))
    assert len(still.times) == 20 and still.changes.max() < 0.005 and not still.cuts.any()
    single = look(encoded(shot(scenes[0], 1)))
    assert single.times.tolist() == [0] and single.changes.tolist() == [0]
    assert not single.cuts.any() and single.end_s == pytest.approx(1 / 25, abs=1e-3)


def test_times_are_those_at_which_frames_are_shown(scenes: list[np.ndarray]) -> None:
    stamps = [0, 40, 80, 500, 540, 2000, 2040]
    frames = [*shot(scenes[0], 5), *shot(scenes[1], 2)]
    found = look(encoded(frames, kind="matroska", stamps=stamps))
    assert found.times == pytest.approx(np.array(stamps) / 1000, abs=2e-3)
    assert found.times[found.cuts] == pytest.approx([2.0], abs=2e-3)


def test_bars_are_what_stays_dark_and_turn_with_the_picture(scenes: list[np.ndarray]) -> None:
    frames = [frame.copy() for frame in shot(scenes[0], 12)]
    for frame in frames:
        frame[:24] = 0
        frame[-12:] = 0
    assert look(encoded(frames)).bars == pytest.approx((24 / 96, 12 / 96, 0, 0), abs=0.03)
    turned = look(encoded(frames, rotation=90)).bars
    assert turned == pytest.approx((0, 0, 24 / 96, 12 / 96), abs=0.03)
    frames[5][:] = 200
    assert look(encoded(frames)).bars == (0, 0, 0, 0)
    assert look(encoded([frame // 16 for frame in frames])).bars == (0, 0, 0, 0)  # a dark video


def test_what_cannot_be_looked_at_is_told_as_in_decoding() -> None:
    whole = video(80, gop=8)
    for data, reason in ((sound(), "no_video"), (b"nothing", "unknown_type")):
        with pytest.raises(BadSample) as problem:
            look(data)
        with pytest.raises(BadSample) as expected:
            Decoder(Limits()).changes(data)
        assert problem.value.reason == expected.value.reason == reason
    with pytest.raises(BadSample) as problem:
        look(whole, Limits(max_frames=79))
    assert problem.value.reason == "too_long"
    cut = video(80, kind="matroska", gop=8)
    part = look(cut[: len(cut) // 2], Limits(allow_truncated=True))
    assert 20 < len(part.times) < 60 and part.end_s < 3


def test_the_child_finds_the_same_and_asks_for_time_as_it_gets_on(
    scenes: list[np.ndarray],
) -> None:
    data = encoded([*shot(scenes[0], 10), *shot(scenes[1], 10)])
    decoder = Decoder(Limits())
    try:
        found = decoder.changes(data)
        with pytest.raises(BadSample, match="zero bytes"):
            decoder.changes(b"")
    finally:
        decoder.close()
    direct = look(data)
    assert found.times.tolist() == direct.times.tolist()
    assert found.changes.tolist() == direct.changes.tolist()
    assert found.cuts.tolist() == direct.cuts.tolist() and found.cuts.sum() == 1
    assert (found.start_s, found.end_s, found.rate) == (direct.start_s, direct.end_s, direct.rate)
    asked = []
    frame_changes(io.BytesIO(video(2 * FRAMES_IN_TIME + 5)), Limits(), lambda: asked.append(1))
    assert len(asked) == 2


def test_optical_flow_tells_motion_from_light(scenes: list[np.ndarray]) -> None:
    still = shot(scenes[0], 1)[0]
    light = [np.minimum(still + np.uint8(3 * number), 220) for number in range(10)]
    moving = shot(scenes[0], 10, step=4)  # px of a width of 128
    found = {}
    for name, frames in (("light", light), ("moving", moving)):
        seen = frame_changes(io.BytesIO(encoded(frames)), Limits(), lambda: None, "dis")
        assert seen.flow is not None and len(seen.flow) == 10 and seen.flow[0] == 0
        found[name] = seen
    assert np.median(found["moving"].flow[1:]) == pytest.approx(4 / 128, rel=0.3)
    assert found["light"].flow.max() < found["moving"].flow[1:].min() / 4
    assert look(encoded(moving)).flow is None
    whole = Decoder(Limits()).changes(encoded(moving), "dis")
    assert np.array_equal(whole.flow, found["moving"].flow)
