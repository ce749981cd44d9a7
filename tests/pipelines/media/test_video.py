"""Clips against a plain decode of the whole file, and the videos that must be refused."""

import io
import tempfile
from typing import Any

import av
import numpy as np
import pytest

from pipelines.media.contract import BadSample, Clip, Limits
from pipelines.media.video import Decoded, decode_clip
from tests.pipelines.media.videos import frame, number_of, sound, video

LIMITS = Limits()


def clip_of(data: bytes, num_frames: int = 4, limits: Limits = LIMITS, **options: Any) -> Decoded:
    wanted = {"frame_stride": 1, "fps": None, "position": 0.5, **options}
    return decode_clip(io.BytesIO(data), Clip(num_frames, **wanted), limits)


def numbers(clip: Decoded) -> list[int]:
    return [number_of(pixels) for pixels in clip.frames]


def refusal(data: bytes, limits: Limits = LIMITS, **options: Any) -> BadSample:
    with pytest.raises(BadSample) as caught:
        clip_of(data, limits=limits, **options)
    return caught.value


KINDS = [
    ("mp4", "libx264"),
    ("matroska", "libx264"),
    ("mpegts", "mpeg4"),
    ("avi", "mpeg4"),
    ("flv", "libx264"),
    ("webm", "libvpx-vp9"),
]


@pytest.mark.parametrize(("kind", "codec"), KINDS)
@pytest.mark.parametrize("position", [0.0, 0.4, 1.0])
def test_frames_are_those_of_a_plain_decode_at_the_same_times(
    kind: str, codec: str, position: float
) -> None:
    data = video(60, kind=kind, codec=codec)
    clip = clip_of(data, frame_stride=3, position=position)
    with av.open(io.BytesIO(data)) as container:
        frames = list(container.decode(video=0))
    assert np.allclose(np.diff(clip.times), 0.12, atol=2e-3)
    by_number = {
        number_of(pixels): pixels
        for pixels in (frame.to_ndarray(format="rgb24") for frame in frames)
    }
    for pixels in clip.frames:
        assert np.array_equal(pixels, by_number[number_of(pixels)])
    first = numbers(clip)[0]
    assert numbers(clip) == [first, first + 3, first + 6, first + 9]


def test_positions_reach_from_the_first_frame_to_the_last() -> None:
    data = video(60)
    assert numbers(clip_of(data, position=0.0)) == [0, 1, 2, 3]
    assert numbers(clip_of(data, position=1.0)) == [56, 57, 58, 59]
    assert numbers(clip_of(data, num_frames=1, position=0.5)) == [30]


def test_a_clip_costs_a_few_frames_however_long_the_video_before_it() -> None:
    data = video(110, gop=10)
    # key frame to clip, the clip, reordered ones
    assert clip_of(data, position=0.95).num_decoded <= 10 + 4 + 3


def test_several_clips_are_decoded_together_where_they_share_pictures_and_sought_where_not() -> (
    None
):
    data = video(110, gop=10)
    near = Clip(4, 1, None, 0.5, (0.52, 0.5), None)
    frames = decode_clip(io.BytesIO(data), near, Limits())
    first = numbers(clip_of(data, position=0.5))
    assert numbers(frames) == [*first, *numbers(clip_of(data, position=0.52)), *first]
    assert frames.num_decoded <= clip_of(data, position=0.5).num_decoded + 4
    far = decode_clip(io.BytesIO(data), Clip(4, 1, None, 0.97, (0.02,), None), Limits())
    assert numbers(far)[4:] == numbers(clip_of(data, position=0.02))
    assert numbers(far)[:4] == numbers(clip_of(data, position=0.97))
    assert far.num_decoded <= 2 * (10 + 4 + 3)
    assert far.times == [*clip_of(data, position=0.97).times, *clip_of(data, position=0.02).times]


@pytest.mark.parametrize("draw", [0.0, 0.5, 0.999])
def test_other_clips_begin_no_further_away_than_asked_for(draw: float) -> None:
    clip = Clip(2, 1, None, 0.5, (draw,), 0.4)  # 10 frames
    first, _, other, _ = numbers(decode_clip(io.BytesIO(video(100)), clip, Limits()))
    assert other - first == {0.0: -10, 0.5: 0, 0.999: 10}[draw]
    edge = Clip(2, 1, None, 0.0, (draw,), 0.4)
    first, _, other, _ = numbers(decode_clip(io.BytesIO(video(100)), edge, Limits()))
    assert first == 0 and other == {0.0: 0, 0.5: 5, 0.999: 10}[draw]


def test_frames_per_second_are_those_asked_for_whatever_the_video_has() -> None:
    data = video(100, rate=50)
    assert np.diff(numbers(clip_of(data, fps=12.5))).tolist() == [4, 4, 4]
    assert np.diff(numbers(clip_of(data, fps=100.0))).tolist() in ([0, 1, 0], [1, 0, 1])


def test_a_clip_begins_where_it_is_told_and_stays_at_its_latest_instant() -> None:
    data = video(60)
    spans = ((10.5 / 25, float("inf")), (40.5 / 25, 42.5 / 25))
    assert numbers(clip_of(data, frame_stride=2, spans=spans)) == [
        *(10, 12, 14, 16),
        *(40, 42, 42, 42),
    ]


@pytest.mark.parametrize("rotation", [0, 90])
def test_bars_are_cut_off_the_upright_picture(rotation: int) -> None:
    data = video(20, rotation=rotation)
    whole = clip_of(data).frames
    height, width = whole.shape[1:3]
    cut = clip_of(data, bars=(0.25, 0.0, 0.1, 0.5)).frames
    left = -(-width // 10)
    assert np.array_equal(cut, whole[:, height // 4 :, left : width - width // 2])


def test_variable_frame_rate_goes_by_time_stamps() -> None:
    # 25, then 5, then 25 a second
    stamps = [
        *range(0, 1000, 40),
        *range(1000, 3000, 200),
        *range(3000, 4000, 40),
    ]
    data = video(len(stamps), kind="matroska", stamps=stamps)
    clip = clip_of(data, num_frames=8, fps=2.0, position=0.0)
    shown = [
        max(i for i, stamp in enumerate(stamps) if stamp <= 1000 * t)
        for t in 0.02 + 0.5 * np.arange(8)
    ]
    assert numbers(clip) == shown


def test_a_short_video_repeats_its_last_frame() -> None:
    assert numbers(clip_of(video(3), num_frames=6)) == [0, 1, 2, 2, 2, 2]
    assert numbers(clip_of(video(1), num_frames=2)) == [0, 0]


@pytest.mark.parametrize(("rotation", "turns"), [(90, 1), (180, 2), (-90, 3)])
def test_rotation_from_the_metadata_is_applied(rotation: int, turns: int) -> None:
    clip = clip_of(video(10, rotation=rotation))
    expected = np.rot90(frame(number_of(np.rot90(clip.frames[0], -turns))), turns)
    assert clip.frames.shape[1:] == expected.shape and clip.frames.flags.c_contiguous
    assert np.abs(clip.frames[0].astype(int) - expected).mean() < 6


def test_metadata_that_is_no_unicode_costs_nothing() -> None:
    data = video(10, title="Zagreb").replace(b"Zagreb", b"\xff\xfe\xc3ae\xe9")
    assert numbers(clip_of(data, position=0.0)) == [0, 1, 2, 3]


def test_a_file_of_sound_is_no_video() -> None:
    assert refusal(sound()).reason == "no_video"


@pytest.mark.parametrize(
    "data",
    [
        b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"<!DOCTYPE html><p>404",
        bytes(5000),
    ],
)
def test_what_is_no_video_opens_nothing_and_is_named_as_such(data: bytes) -> None:
    assert refusal(data).reason == "unknown_type"


def test_a_still_image_is_no_video() -> None:
    buffer = io.BytesIO()
    av.VideoFrame.from_ndarray(frame(0), format="rgb24").to_image().save(buffer, "PNG")
    assert refusal(buffer.getvalue()).reason == "unknown_type"


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(max_pixels=48 * 64 - 1), "too_many_pixels"),
        (Limits(max_frames=49), "too_long"),
        (Limits(max_duration_s=1.9), "too_long"),
    ],
)
def test_limits_are_checked_in_the_header(limits: Limits, reason: str) -> None:
    assert refusal(video(50), limits).reason == reason
    assert (
        clip_of(
            video(50), limits=Limits(max_pixels=48 * 64, max_frames=50, max_duration_s=2.0)
        ).frames.shape[0]
        == 4
    )


def with_index_first(data: bytes) -> bytes:
    """Move the frames of an MP4 file behind its index, as for the web."""
    with (
        tempfile.NamedTemporaryFile(suffix=".mp4") as file,
        av.open(io.BytesIO(data)) as source,
    ):
        target = av.open(file.name, "w", container_options={"movflags": "faststart"})
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
        target.close()
        return file.read()


def test_a_video_that_was_cut_is_truncated_where_it_is_cut_and_whole_before() -> None:
    data = with_index_first(video(110))
    cut = data[: int(0.6 * len(data))]
    assert numbers(clip_of(cut, position=0.1)) == numbers(clip_of(data, position=0.1))
    assert refusal(cut, position=1.0).reason == "truncated"
    admitted = clip_of(cut, position=1.0, limits=Limits(allow_truncated=True))
    assert len(set(numbers(admitted))) == 1 and admitted.frames.shape[0] == 4


def test_a_video_without_its_index_is_truncated() -> None:
    data = video(110)  # the index is at the end
    assert refusal(data[: len(data) // 2]).reason == "truncated"


def test_damage_in_the_middle_is_never_concealed() -> None:
    data = bytearray(with_index_first(video(110, gop=110)))
    start = data.index(b"mdat") + 2000
    for offset in range(start, len(data), 97):
        data[offset] ^= 0xFF
    assert refusal(bytes(data), position=1.0).reason == "corrupt"
