"""jobs.setup.labelled_sets: what a probe judges, what it leaves out, and what it refuses."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from jobs.setup import labelled_sets
from jobs.setup.command_line import InputError
from jobs.setup.labelled_sets import LabelledSets
from pipelines import schema
from pipelines.corpus import labels
from pipelines.corpus.labels import LabelledRows
from pipelines.corpus.left_out import MOST_REASONS


def rows(*classes: str, first: int = 0) -> LabelledRows:
    table = pa.Table.from_pylist(
        [
            {
                "sample_id": first + number,
                "uri": f"/{name}/{first + number}.jpg",
                "offset": 0,
                "length": 1,
                "member": None,
                "etag": "",
                "media": "image",
                "clip": None,
            }
            for number, name in enumerate(classes)
        ],
        schema=schema.MANIFEST,
    )
    return LabelledRows(table, list(classes), Counter(), [])


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> dict[str, LabelledRows]:
    """What listing finds, by URI."""
    there: dict[str, LabelledRows] = {}
    monkeypatch.setattr(labels, "read_class_folders", there.__getitem__)
    return there


def test_a_class_only_the_test_set_has_is_left_out_counted_and_named(
    listed: dict[str, LabelledRows], capsys: pytest.CaptureFixture[str]
) -> None:
    listed |= {"train": rows("cat", "dog"), "test": rows("cat", "cow", "dog", first=10)}
    sets = labelled_sets.read_sets("train", "test")
    assert sets.test.classes == ["cat", "dog"] and sets.unknown == ["cow"]
    judged = sets.judged(np.ones(4, bool), np.arange(4))
    assert judged.account["test_only_classes"] == ["cow"]
    assert judged.account["left_out"]["test"] == {labelled_sets.UNKNOWN: 1}
    assert (judged.account["num_classes"], judged.account["classes"]) == (2, ["cat", "dog"])
    assert "classes that train.uri has not (1): cow" in capsys.readouterr().err


def test_a_test_set_that_is_the_training_set_is_refused(
    listed: dict[str, LabelledRows], tmp_path: Path
) -> None:
    os.symlink(tmp_path, tmp_path / "again")
    with pytest.raises(InputError, match=r"is train\.uri as well"):
        labelled_sets.check_places(f"{tmp_path}", f"{tmp_path}/again/")
    with pytest.raises(InputError, match=r"is train\.uri as well"):
        labelled_sets.check_places("s3://b/x/", "s3://b/x")
    labelled_sets.check_places("s3://b/x", "s3://b/y")
    listed |= {"train": rows("cat", "dog"), "test": rows("cat", "dog")}
    with pytest.raises(InputError, match=r"every image of test\.uri test is in train\.uri train"):
        labelled_sets.read_sets("train", "test")


def test_test_images_of_the_same_bytes_as_training_images_do_not_count(
    listed: dict[str, LabelledRows], capsys: pytest.CaptureFixture[str]
) -> None:
    listed |= {"train": rows("cat", "dog"), "test": rows("cat", "dog", "dog", first=1)}
    sets = labelled_sets.read_sets("train", "test")  # one file lies in both
    assert sets.test.classes == ["dog", "dog"]
    judged = sets.judged(np.ones(4, bool), np.array([5, 6, 5, 7]))
    assert judged.rows.tolist() == [True, True, False, True]
    assert judged.is_test.tolist() == [False, False, True, True]
    assert judged.labels.tolist() == [0, 1, 1, 1]
    assert judged.account["duplicates"] == 2
    assert "2 images are in train.uri as well" in capsys.readouterr().err
    with pytest.raises(InputError, match="by content"):
        sets.judged(np.ones(4, bool), np.array([5, 6, 5, 6]))


def test_a_class_that_lost_all_its_images_is_not_judged(listed: dict[str, LabelledRows]) -> None:
    listed |= {
        "train": rows("cat", "cow", "dog"),
        "test": rows("cat", "cow", "dog", "dog", first=10),
    }
    sets = labelled_sets.read_sets("train", "test")
    valid = np.array([True, False, True, True, True, True, False])
    judged = sets.judged(valid, np.array([1, 0, 2, 3, 4, 5, 0]))
    assert judged.rows.tolist() == [True, False, True, True, False, True, False]
    assert judged.account["lost_classes"] == ["cow"]
    assert judged.account["num_classes"] == 2
    assert judged.account["unreadable"] == {"train": 1, "test": 1}


def test_folders_named_as_parts_of_a_data_set_are_judged_with_a_warning(
    listed: dict[str, LabelledRows], capsys: pytest.CaptureFixture[str]
) -> None:
    listed |= {"train": rows("Train", "val"), "test": rows("val", first=9)}
    sets = labelled_sets.read_sets("train", "test")
    assert isinstance(sets, LabelledSets)
    said = capsys.readouterr().err
    assert "judging 2 classes: Train, val" in said
    assert "warning: Train, val name parts of a data set" in said
    listed |= {"train": rows("train", "train")}
    with pytest.raises(InputError, match="has one class folder, train, and a probe needs at least"):
        labelled_sets.read_sets("train", "test")


def test_lists_of_names_and_reasons_are_bounded(
    listed: dict[str, LabelledRows], capsys: pytest.CaptureFixture[str]
) -> None:
    many = rows(*(f"{number:05d}" for number in range(5000)))
    many.left_out.update({f"no image (.{number})": 1 for number in range(5000)})
    listed |= {"train": many, "test": rows("00001", "x", first=9000)}
    sets = labelled_sets.read_sets("train", "test")
    account = sets.judged(np.ones(5001, bool), np.arange(5001)).account
    assert account["num_classes"] == 5000
    assert len(account["classes"]) == labelled_sets.NAMES_KEPT
    assert sum(account["left_out"]["train"].values()) == 5000
    assert len(account["left_out"]["train"]) == MOST_REASONS + 1
    assert max(map(len, capsys.readouterr().err.splitlines())) < 1000


def test_a_set_without_class_folders_is_refused_with_what_was_left_out(
    listed: dict[str, LabelledRows],
) -> None:
    none = rows()
    none.left_out[labels.BESIDE] = 7
    listed |= {"train": none}
    with pytest.raises(InputError, match=r"train\.uri train .*\(7 x beside the class folders\)"):
        labelled_sets.read_sets("train", "test")
