"""How folders of frames, masks and key points become sequences."""

from pathlib import Path

import pytest
from PIL import Image

from pipelines.sequences.sequences import AMBIGUOUS, NO_FRAME, NO_TRUTH, read_sequences

pytestmark = pytest.mark.usefixtures("ray_session")


def frame(path: Path, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (16, 12), 1 if mode != "RGB" else (90, 120, 60)).save(path)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    for number in (1, 2, 10, 9):
        frame(tmp_path / "frames" / "dog" / f"frame{number}.jpg")
    for number in (0, 1):
        frame(tmp_path / "frames" / "nested" / "cat" / f"{number:05d}.png")
        frame(tmp_path / "frames" / "plain" / f"{number:05d}.jpg")
    for name in ("dog/frame2.png", "dog/frame10.png", "nested/cat/00000.png", "gone/00000.png"):
        frame(tmp_path / "masks" / name, "L")
    (tmp_path / "frames" / "dog" / "notes.txt").write_text("no frame")
    return tmp_path


def test_frames_lie_in_order_of_their_numbers_with_their_masks(videos: Path) -> None:
    listed = read_sequences(str(videos / "frames"), masks=str(videos / "masks"))
    assert [sequence.name for sequence in listed.sequences] == ["dog", "nested/cat"]
    dog = listed.sequences[0].frames
    names = [Path(one.image.uri).stem for one in dog]
    assert names == ["frame1", "frame2", "frame9", "frame10"]
    masks = [one.mask and Path(one.mask.uri).stem for one in dog]
    assert masks == [None, "frame2", None, "frame10"]
    assert listed.left_out.names[NO_TRUTH] == ["plain"]
    assert listed.left_out.names[NO_FRAME] == ["gone/00000.png"]
    assert listed.left_out.counts.total() == 3  # and the notes


def test_a_folder_of_frames_alone_is_one_sequence(videos: Path) -> None:
    listed = read_sequences(str(videos / "frames" / "dog"), masks=str(videos / "masks" / "dog"))
    [dog] = listed.sequences
    assert dog.name == "dog"
    assert [one.has_truth for one in dog.frames] == [False, True, False, True]


def test_a_mask_of_two_frames_belongs_to_neither(videos: Path) -> None:
    frame(videos / "frames" / "dog" / "frame2.png")
    listed = read_sequences(str(videos / "frames"), masks=str(videos / "masks"))
    assert listed.left_out.counts[AMBIGUOUS] == 2
    assert [bool(one.mask) for one in listed.sequences[0].frames].count(True) == 1


def points(videos: Path, *rows: str) -> str:
    place = videos / "points.csv"
    place.write_text("\n".join(("sequence,frame,point,x,y", *rows)))
    return str(place)


def test_points_belong_to_the_frames_that_they_name(videos: Path) -> None:
    table = points(
        videos, "dog,frame2,nose,3,4", "dog,frame2.jpg,tail,9.5,2", "dog,frame10,nose,5,4"
    )
    [dog] = read_sequences(str(videos / "frames"), points=table).sequences
    assert [one.points for one in dog.frames] == [
        (),
        (("nose", 3.0, 4.0), ("tail", 9.5, 2.0)),
        (),
        (("nose", 5.0, 4.0),),
    ]
    alone = points(videos, "dog,frame2,nose,3,4")
    [dog] = read_sequences(str(videos / "frames" / "dog"), points=alone).sequences
    assert dog.frames[1].points == (("nose", 3.0, 4.0),)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("dog,frame3,nose,3,4", "line 2: test.uri has no frame dog/frame3"),
        ("dog,frame2,nose,3,", "line 2: x and y must be px"),
        ("dog,frame2,nose,3,nan", "line 2: point nose is nowhere"),
        ("dog,frame2,nose,3,4\ndog,frame2,nose,3,5", "line 3: point nose is there twice"),
    ],
)
def test_a_table_of_points_that_cannot_be_true_is_refused(
    videos: Path, row: str, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        read_sequences(str(videos / "frames"), points=points(videos, row))
    (videos / "points.csv").write_text("sequence,frame,x,y\n")
    with pytest.raises(ValueError, match="lacks the column point"):
        read_sequences(str(videos / "frames"), points=str(videos / "points.csv"))
