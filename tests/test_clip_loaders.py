"""Every loader that clips are measured against makes the clips that are asked for."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import clip_loaders
from benchmarks.clip_loaders import NUM_FRAMES, SIZE, STRIDE, Setup
from benchmarks.video_files import frames_of, write_video
from tests.pipelines.media.videos import number_of, video


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Two videos of 60 frames that tell their number, with a key frame every 12."""
    root = tmp_path_factory.mktemp("videos")
    for name in ("a", "b"):
        (root / f"{name}.mp4").write_bytes(video(60))
    return tuple(str(root / f"{name}.mp4") for name in ("a", "b"))


@pytest.mark.parametrize("start", [0, 7, 29, 45])
def test_the_plain_loop_decodes_the_frames_that_are_asked_for(
    files: tuple[str, ...], start: int
) -> None:
    clip = clip_loaders._pyav_clip(files[0], start).permute(0, 2, 3, 1).numpy()
    wanted = clip_loaders._wanted([start], 60)
    shown = [number_of(frame) for frame in clip]
    assert len(shown) == NUM_FRAMES
    there = [number for number in range(start, start + NUM_FRAMES * STRIDE, STRIDE) if number < 60]
    assert shown[: len(there)] == wanted[: len(there)] == there
    assert set(shown[len(there) :]) <= {there[-1]}  # the last frame again


def test_starts_leave_room_for_a_clip() -> None:
    assert set(clip_loaders._starts(32, 99)) == {0, 1} and clip_loaders._starts(9, 2) == [0, 0]
    assert clip_loaders._wanted([0], 9)[-12:] == [8] * 12


@pytest.mark.parametrize("loader", ["decoding alone", "Afield without Ray", "PyAV"])
def test_a_loader_counts_the_clips_that_it_makes(
    files: tuple[str, ...], loader: str, tmp_path: Path
) -> None:
    setup = Setup(files, clips=3, seconds=0, progress=str(tmp_path / "progress"))
    clip_loaders.LOADERS[loader](setup)
    made = np.loadtxt(setup.progress, ndmin=2)[:, 1]
    assert set(made.tolist()) <= {3.0, 3.0 * 8} and len(made) == 2  # videos, or batches of them


def test_the_loader_of_float_clips_stacks_those_of_a_video(files: tuple[str, ...]) -> None:
    setup = Setup(files, clips=2, seconds=0, progress="unused")
    clips = clip_loaders._Videos(setup)[1]
    assert clips.shape == (2, NUM_FRAMES, 3, SIZE, SIZE) and clips.dtype == torch.float32
    shape = setup.shape().empty(1)["global_crops"].shape
    assert shape == (1, 2, NUM_FRAMES, 3, SIZE, SIZE)


def test_videos_of_any_length_are_made_of_what_can_be_read(
    files: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    paths = [tmp_path / "broken.mp4", *map(Path, files)]
    frames = islice(frames_of(paths, 48, 64), 150)
    assert write_video(tmp_path / "long.mp4", frames, {"crf": "10"}) == 150
    again = frames_of([tmp_path / "long.mp4"], 48, 64)
    shown = [number_of(next(again)) for _ in range(150)]
    assert shown == [number % 60 for number in range(150)]
    with pytest.raises(ValueError, match="not one of 1 videos can be read"):
        next(frames_of(paths[:1], 48, 64))
