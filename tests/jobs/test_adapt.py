"""jobs.adapt on files: what is judged, what is left out, and that both are said."""

import os
import shutil
from pathlib import Path

import pytest

from jobs.adapt import AdaptConfig, adapt
from jobs.setup.command_line import InputError

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def labelled(image_folder: Path, tmp_path: Path) -> Path:
    """Three scenes to learn, each with folders of its own, and two of them to test by."""
    for scene in ("scene0", "scene1", "scene2"):
        images = sorted((image_folder / scene).iterdir())
        _copy(images[:10], tmp_path / "train" / scene / "part1")
        _copy(images[10:14], tmp_path / "train" / scene / "part2")
        if scene != "scene2":
            _copy(images[14:20], tmp_path / "test" / scene / "images")
    return tmp_path


def _copy(files: list[Path], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copy(file, folder)


def config(artifact: str, folder: Path, **probe: object) -> AdaptConfig:
    values = {
        "artifact": artifact,
        "train": {"uri": str(folder / "train")},
        "test": {"uri": str(folder / "test")},
        "probe": probe or {"k": 3},
    }
    return AdaptConfig.model_validate(values)


def test_a_probe_judges_the_first_folders_and_accounts_for_every_file(
    labelled: Path, small_artifact: str, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = labelled / "train", labelled / "test"
    shutil.copy(train / "scene2" / "part1" / "00.png", train / "beside.png")
    (train / "nothing").mkdir()
    (train / "scene0" / "broken.jpg").write_bytes(b"no picture")
    (train / "scene0" / "notes.txt").write_text("text")
    _copy([train / "scene2" / "part1" / "01.jpg"], test / "scene9")
    shutil.copy(train / "scene0" / "part1" / "02.jpg", test / "scene1" / "copied.jpg")
    moved = labelled / "elsewhere"
    shutil.move(train / "scene1", moved)
    os.symlink(moved, train / "scene1")

    result = adapt(config(small_artifact, labelled))
    assert result["classes"] == ["scene0", "scene1", "scene2"]
    assert (result["num_train"], result["num_test"]) == (42, 12)
    assert result["left_out"]["train"] == {"beside the class folders": 1, "no image (.txt)": 1}
    assert result["empty_classes"] == {"train": ["nothing"], "test": []}
    assert result["test_only_classes"] == ["scene9"]
    assert result["duplicates"] == 1
    assert result["unreadable"] == {"train": 1, "test": 0}
    assert "knn top-1 of 3 classes: pretrained" in result["result"]
    said = capsys.readouterr().err
    assert "judging 3 classes: scene0, scene1, scene2" in said
    assert "1 images are in train.uri as well" in said


@pytest.mark.long
def test_a_test_set_copied_from_the_training_set_is_refused(
    labelled: Path, small_artifact: str
) -> None:
    shutil.rmtree(labelled / "test")
    shutil.copytree(labelled / "train" / "scene0", labelled / "test" / "scene1")
    with pytest.raises(InputError, match="by content: the score would say nothing"):
        adapt(config(small_artifact, labelled))
