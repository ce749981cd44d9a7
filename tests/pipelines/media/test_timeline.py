"""When a video ends, and which of its streams is the video: valid files are not refused."""

import io
import struct

import av
import numpy as np
import pytest
from av.stream import Disposition

from pipelines.media.contract import BadSample, Clip, Limits
from pipelines.media.damage import is_cut
from pipelines.media.timeline import Timeline, video_stream
from pipelines.media.video import decode_clip
from tests.pipelines.media.videos import number_of, picture, remuxed, video
from tests.shared_data import shared_data

LIMITS = Limits()


def numbers(
    data: bytes, position: float, num_frames: int = 2, fps: float | None = None
) -> list[int]:
    clip = decode_clip(io.BytesIO(data), Clip(num_frames, 1, fps, position), LIMITS)
    return [number_of(frame) for frame in clip.frames]


def timeline_of(data: bytes) -> Timeline:
    with av.open(io.BytesIO(data)) as container:
        return Timeline.of(container, video_stream(container), None)


@pytest.mark.parametrize("kind", ["mp4", "matroska"])
def test_a_last_frame_that_stays_for_seconds_is_no_truncation(kind: str) -> None:
    data = remuxed([video(30)], kind, last_ms=10_000)
    assert numbers(data, 0.0) == [0, 1]
    assert numbers(data, 1.0)[-1] == 29
    if kind == "mp4":  # Matroska does not keep the duration of a last frame
        assert numbers(data, 0.5) == numbers(data, 1.0) == [29, 29]


def test_slides_are_shown_one_after_another() -> None:
    stamps = [0, 2000, 4000, 6000, 8000]
    data = remuxed([video(5, stamps=stamps)], "mp4", last_ms=4000)
    assert numbers(data, 0.0, num_frames=6, fps=0.5) == [0, 1, 2, 3, 4, 4]


def test_a_header_that_promises_more_than_the_index_holds_is_corrected() -> None:
    data = bytearray(video(50, kind="avi", codec="mpeg4"))
    length = data.index(b"strh") + 8 + 32
    struct.pack_into("<I", data, length, 5 * struct.unpack_from("<I", data, length)[0])
    assert timeline_of(bytes(data)).end_s > 9
    assert numbers(bytes(data), 1.0) == [48, 49]


def test_an_edit_list_cuts_both_ends() -> None:
    data = bytearray(video(100))
    struct.pack_into(">Ii", data, data.index(b"elst") + 12, 1000, 2 * 16_000)  # 1 s from 2 s on
    first, last = numbers(bytes(data), 0.0)[0], numbers(bytes(data), 1.0)[-1]
    assert 45 <= first <= 50 and 70 <= last <= 75


def test_a_video_that_begins_late_is_read_from_its_first_frame() -> None:
    data = video(30, stamps=[1500 + 40 * number for number in range(30)])
    assert numbers(data, 0.0) == [0, 1] and numbers(data, 1.0) == [28, 29]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(lambda: video(50, kind="h264"), id="h264"),
        pytest.param(lambda: remuxed([video(50)], "matroska", live="1"), id="live"),
        pytest.param(
            lambda: remuxed([video(50)], "mp4", movflags="frag_keyframe+empty_moov"), id="fragments"
        ),
        pytest.param(lambda: video(50, kind="ivf", codec="libvpx"), id="ivf"),
    ],
)
def test_a_video_whose_header_says_no_or_a_wrong_length_is_reached_to_its_end(data) -> None:  # type: ignore[no-untyped-def]
    made = data()
    assert numbers(made, 0.0) == [0, 1]
    assert numbers(made, 0.5)[0] in (23, 24, 25)
    assert numbers(made, 1.0)[-1] == 49


JOINED = [
    ("mpegts", "mpeg4"),
    ("mpegts", "libx264"),
    ("vob", "mpeg2video"),
    ("matroska", "libx264"),
]


@pytest.mark.parametrize(("kind", "codec"), JOINED)
@pytest.mark.parametrize("lengths", [(50, 30), (30, 50)])
def test_joined_streams_are_one_video(kind: str, codec: str, lengths: tuple[int, int]) -> None:
    first, second = (video(number, kind=kind, codec=codec) for number in lengths)
    for position in (0.0, 0.3, 0.6, 0.9, 1.0):
        shown = numbers(first + second, position)
        # Frames side by side; the first stream's last one, and what follows it.
        assert shown[1] - shown[0] == 1 or (shown[0] == 29 and shown[1] in (0, 29)), position


def test_a_transport_stream_with_a_packet_missing_is_still_corrupt() -> None:
    data = video(50, kind="mpegts", codec="mpeg4")
    holed = data[: 188 * 40] + data[188 * 41 :]
    with pytest.raises(BadSample, match="corrupt"):
        numbers(holed, 0.8)


def test_the_stream_that_a_player_shows_is_taken() -> None:
    other = Disposition(0)
    twice = [video(20), video(60)]
    second = remuxed(twice, "matroska", roles=[other, Disposition.default])
    assert numbers(second, 1.0) == [58, 59]
    first = remuxed(twice, "matroska", roles=[Disposition.default, other])
    assert numbers(first, 1.0) == [18, 19]


def test_a_cover_is_no_video() -> None:
    for files in ([picture(), video(30)], [video(30), picture()]):
        roles = [
            Disposition.attached_pic if file == picture() else Disposition.default for file in files
        ]
        assert numbers(remuxed(files, "mp4", roles=roles), 1.0) == [28, 29]


def test_a_variable_rate_is_counted_by_its_frames() -> None:
    random = np.random.default_rng(0)
    stamps = np.cumsum(random.choice([20, 33, 47, 120, 300], 100)).tolist()
    data = video(100, stamps=stamps)
    assert timeline_of(data).num_frames <= 100
    decode_clip(io.BytesIO(data), Clip(2, 1, None, 0.5), Limits(max_frames=100))


@pytest.mark.parametrize(("kind", "codec"), [("mp4", "libx264"), ("avi", "mpeg4")])
def test_a_cut_file_is_told_from_a_whole_one(kind: str, codec: str) -> None:
    data = video(60, kind=kind, codec=codec)
    assert is_cut(io.BytesIO(data)) is False
    assert is_cut(io.BytesIO(data[: len(data) // 2])) is True
    assert is_cut(io.BytesIO(video(5, kind="matroska"))) is None


CASES = shared_data("../cases/long_last.mp4")


@pytest.mark.skipif(CASES is None, reason="the collection of cases is not on this machine")
def test_files_that_were_refused_are_read() -> None:
    assert CASES is not None
    for name in ("long_last.mp4", "slides.mp4"):
        data = CASES.with_name(name).read_bytes()
        for position in (0.0, 0.5, 1.0):
            decode_clip(io.BytesIO(data), Clip(4, 4, None, position), LIMITS)
