"""Masks and key points followed through files, without Ray: what is judged, and by what."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from models import artifact
from models.encoders.factory import EncoderConfig, build_encoder
from models.probing.propagation import Carrying
from models.probing.region_scores import boundary_agreement, region_overlap
from pipelines.embeddings.features import Features
from pipelines.media.contract import Limits
from pipelines.ray_tasks import Placed
from pipelines.sequences.following import (
    NO_START,
    NOTHING_JUDGED,
    Follow,
    Following,
    film_of,
)
from pipelines.sequences.sequences import Frame, Place, Point, Sequence

SIZE = (48, 80)  # 6 x 10 places of 8 px
DRAW = np.random.default_rng(0)
# each place of another colour, so that colours alone find it again
SCENE = np.repeat(np.repeat(DRAW.integers(20, 235, (6, 10, 3)), 8, 0), 8, 1).astype(np.uint8)


def place(path: Path) -> Place:
    return Place(str(path), 0, path.stat().st_size)


def saved(folder: Path, pixels: np.ndarray) -> Place:
    path = folder / f"{len(list(folder.iterdir()))}.png"
    Image.fromarray(pixels).save(path)
    return place(path)


def video(
    folder: Path,
    masks: list[np.ndarray | None],
    pixels: list[np.ndarray] | None = None,
    name: str = "video",
) -> Sequence:
    pixels = pixels or [SCENE] * len(masks)
    frames = [
        Frame(saved(folder, image), None if mask is None else saved(folder, mask))
        for image, mask in zip(pixels, masks, strict=True)
    ]
    return Sequence(name, tuple(frames))


def block(left: int, value: int = 255, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Make a mask of two by two places, this many places from the left."""
    mask = np.zeros(size, np.uint8)
    mask[16:32, left * 8 : left * 8 + 16] = value
    return mask


@pytest.fixture(scope="module")
def follow(small_artifact: str) -> Follow:
    return following_by(small_artifact)


def following_by(uri: str) -> Follow:
    columns = {kind: Features(uri, kind, form="maps") for kind in ("pretrained", "colour")}
    how = Following(
        columns=columns,
        carrying=Carrying(neighbours=1, radius=4),
        size=None,
        ignore=None,
        tolerance=0.008,
        alphas=(0.1, 0.2),
        filmed="colour",
        shown=("video",),
        placed=Placed(use_gpu=False, threads=1),
        limits=Limits(),
    )
    return Follow(how)


def test_a_moved_object_is_followed_to_the_pixel(follow: Follow, tmp_path: Path) -> None:
    """The scene moves one place a frame; upsampled, an object has round corners, so it fills the
    picture from top to bottom."""
    steps = range(4)
    pixels = [np.roll(SCENE, 8 * step, axis=1) for step in steps]
    masks = []
    for step in steps:
        mask = np.zeros(SIZE, np.uint8)
        mask[:, (step + 4) * 8 :] = 255
        masks.append(mask)
    answer, _ = follow.follow(video(tmp_path, masks, pixels))
    assert answer["judged"] == 2  # neither the first nor the last
    assert answer["scores"]["colour"] == {"j": 1.0, "f": 1.0}
    copied = [region_overlap(masks[0] > 0, masks[step] > 0) for step in (1, 2)]
    assert answer["scores"]["copy"]["j"] == pytest.approx(np.mean(copied))
    near = [boundary_agreement(masks[0] > 0, masks[step] > 0) for step in (1, 2)]
    assert answer["scores"]["copy"]["f"] == pytest.approx(np.mean(near))


@pytest.mark.parametrize(
    ("name", "time", "width"),
    [
        ("resnet18_small", "frames", 4),
        ("resnet18_small", "inflated", 4),
        ("vit_tiny_small", "tubelets", 8),
        ("vit_tiny_small", None, 8),
    ],
)
def test_encoders_of_clips_and_of_images_follow_what_does_not_move(
    name: str, time: Any, width: int, tmp_path: Path
) -> None:
    config = EncoderConfig(name=name, width=width, time=time)
    more = {} if time is None else {"num_frames": 4}
    torch.manual_seed(3)
    uri = str(tmp_path / "artifact")
    artifact.save(
        uri,
        build_encoder(config, 64),
        config={"encoder": config.model_dump(mode="json"), "seed": 3},
        preprocess={"image_size": 64, "mean": [0.5] * 3, "std": [0.5] * 3, **more},
        provenance={},
    )
    (tmp_path / "files").mkdir()
    answer, _ = following_by(uri).follow(video(tmp_path / "files", [block(3)] * 4))
    scores = answer["scores"]
    assert scores["copy"] == {"j": 1.0, "f": 1.0} and answer["judged"] == 2
    assert scores["pretrained"]["j"] > 0.3  # of places drawn at random 0.04


def test_scores_are_means_over_objects_then_frames(follow: Follow, tmp_path: Path) -> None:
    first = block(0, 1) + block(6, 7)
    second = block(1, 1) + block(6, 7)
    third = block(6, 7)  # the first object has left
    answer, _ = follow.follow(video(tmp_path, [first, second, third, first]))
    copied = answer["scores"]["copy"]
    assert answer["judged"] == 2
    assert copied["j"] == pytest.approx(((1 / 3 + 1) / 2 + (0 + 1) / 2) / 2)


def test_values_that_come_later_are_no_objects_and_255_is_not_judged(
    follow: Follow, tmp_path: Path
) -> None:
    first = block(0, 3)
    later = block(0, 3) + block(4, 9) + block(7, 255)
    told = follow.follow(video(tmp_path, [first, later, later]))[0]
    assert told["scores"]["copy"] == {"j": 1.0, "f": 1.0}
    void = np.where(first, 255, 0).astype(np.uint8)
    told = follow.follow(video(tmp_path, [first, void, first]))[0]
    assert told["scores"]["copy"] == {"j": 1.0, "f": 1.0}  # both empty where it is judged


def test_masks_of_palettes_are_read_by_their_indices(follow: Follow, tmp_path: Path) -> None:
    sequence = video(tmp_path, [block(0, 1) + block(6, 2)] * 3)
    for one in sequence.frames:
        assert one.mask is not None
        with Image.open(one.mask.uri) as grey:
            palette = grey.convert("L").copy()
        palette.putpalette([0, 0, 0, 0, 128, 0, 128, 0, 0])
        palette.save(one.mask.uri)
        assert Image.open(one.mask.uri).mode == "P"
    frames = [Frame(one.image, one.mask and place(Path(one.mask.uri))) for one in sequence.frames]
    answer, _ = follow.follow(Sequence("video", tuple(frames)))
    assert answer["scores"]["copy"] == {"j": 1.0, "f": 1.0}


def test_following_begins_with_the_first_object(follow: Follow, tmp_path: Path) -> None:
    empty = np.zeros(SIZE, np.uint8)
    masks = [None, empty, block(2), None, block(2), empty, block(2)]
    answer, film = follow.follow(video(tmp_path, masks))
    assert answer["judged"] == 2  # frames 4 and 5; of frame 3 nobody knows
    assert answer["scores"]["copy"]["j"] == 0.5
    frames, told, truth = film_of(film)
    assert frames.shape[0] == told.shape[0] == truth.shape[0] == 5
    assert np.array_equal(told[0], truth[0]) and told[0].max() == 1


@pytest.mark.parametrize(
    ("masks", "problem"),
    [
        ([block(2)], NOTHING_JUDGED),
        ([block(2), block(2)], NOTHING_JUDGED),  # the last is not judged
        ([block(2), None, None], NOTHING_JUDGED),
        ([np.zeros(SIZE, np.uint8)] * 3, NO_START),
    ],
)
def test_a_video_without_anything_to_judge_says_why(
    masks: list[np.ndarray | None], problem: str, follow: Follow, tmp_path: Path
) -> None:
    answer, film = follow.follow(video(tmp_path, masks))
    assert answer["problem"] == problem and "scores" not in answer
    assert film == b""


def test_what_cannot_be_read_is_passed_over_and_counted(follow: Follow, tmp_path: Path) -> None:
    good = video(tmp_path, [block(2)] * 5)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff no picture")
    frames = list(good.frames)
    frames[1] = Frame(place(broken), frames[1].mask)
    frames[2] = Frame(frames[2].image, place(broken))
    frames[3] = Frame(frames[3].image, Place(str(tmp_path / "gone.png"), 0, 10))
    frames.insert(4, good.frames[1])
    answer, _ = follow.follow(Sequence("video", tuple(frames)))
    assert answer["judged"] == 1
    assert sum(answer["unreadable"].values()) == 3
    assert answer["unreadable"]["mask: missing"] == 1


def test_masks_and_frames_of_other_sizes_are_judged_at_the_masks_own(
    follow: Follow, tmp_path: Path
) -> None:
    large = np.asarray(Image.fromarray(SCENE).resize((160, 96), Image.Resampling.NEAREST))
    halves = []
    for width in (80, 160, 240):
        mask = np.zeros((width * 3 // 5, width), np.uint8)
        mask[:, width // 2 :] = 255
        halves.append(mask)
    pixels = [SCENE, large, SCENE, large]
    masks = [halves[0], halves[1], halves[2], halves[0]]
    answer, _ = follow.follow(video(tmp_path, masks, pixels))
    assert answer["scores"]["colour"] == {"j": 1.0, "f": 1.0}
    assert answer["scores"]["copy"] == {"j": 1.0, "f": 1.0}


def test_sequences_of_other_shapes_follow_each_other(follow: Follow, tmp_path: Path) -> None:
    for height, width in ((50, 81), (8, 8), (70, 30)):
        mask = np.zeros((height, width), np.uint8)
        mask[: height // 2] = 255
        still = np.asarray(Image.fromarray(SCENE).resize((width, height)))
        answer, _ = follow.follow(video(tmp_path, [mask] * 3, [still] * 3))
        assert answer["scores"]["copy"]["j"] == 1


def test_points_are_followed_with_what_they_lie_on(follow: Follow, tmp_path: Path) -> None:
    frames = []
    for step in range(3):
        image = saved(tmp_path, np.roll(SCENE, 8 * step, axis=1))
        moved = 8.0 * step
        points: list[Point] = [("eye", 52 + moved, 20), ("ear", 60 + moved, 28)]
        if step == 2:
            points = [points[0], ("ear", 60.0, 28.0), ("new", 1.0, 1.0)]  # wrongly marked
        frames.append(Frame(image, points=tuple(points)))
    answer, film = follow.follow(Sequence("video", tuple(frames)))
    assert answer["judged"] == 2  # of points the last frame counts too
    assert answer["scores"]["colour"] == {"pck_0.1": 0.75, "pck_0.2": 0.75}
    assert answer["scores"]["copy"] == {"pck_0.1": 0.25, "pck_0.2": 0.25}
    _, told, truth = film_of(film)
    assert set(np.unique(told)) == set(np.unique(truth)) == {0, 1, 2}


def test_one_point_alone_has_nothing_to_be_measured_by(follow: Follow, tmp_path: Path) -> None:
    still = saved(tmp_path, SCENE)
    frames = [Frame(still, points=(("eye", 12.0, 20.0),))] * 3
    answer, _ = follow.follow(Sequence("video", tuple(frames)))
    assert answer["problem"] == NOTHING_JUDGED
