"""jobs.adaptation: what a probe judges, what it leaves out, and what it refuses."""

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from jobs.adaptation import judging, labelled_sets, splitting
from jobs.adaptation.label_sections import LabelledJobConfig
from jobs.adaptation.telling import NAMES_KEPT
from jobs.setup.command_line import InputError
from pipelines import schema
from pipelines.corpus.left_out import MOST_REASONS
from pipelines.labels import labelled_source, masks
from pipelines.labels.class_folders import BESIDE
from pipelines.labels.label_tables import Columns
from pipelines.labels.labelled_data import LabelledData, Task
from pipelines.labels.labelled_rows import LabelledRows, LeftOutNames


def rows(*classes: str, first: int = 0, **columns: list[Any]) -> LabelledRows:
    """Samples numbered on from `first`; a class may be several between bars."""
    table = [
        {
            "sample_id": first + number,
            "uri": f"/{name}/{first + number}.jpg",
            "offset": 0,
            "length": 1,
            "etag": "",
            "media": "image",
            "name": f"{name}/{first + number}.jpg",
            "labels": name.split("|"),
            **{column: values[number] for column, values in columns.items()},
        }
        for number, name in enumerate(classes)
    ]
    return LabelledRows(pa.Table.from_pylist(table, schema=schema.NAMED))


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> dict[str, LabelledRows]:
    """What reading a source finds, by URI."""
    there: dict[str, LabelledRows] = {}

    def read(uri: str, columns: Columns, task: Task, medium: str) -> LabelledRows:
        return there[uri]

    monkeypatch.setattr(labelled_source, "read_source", read)
    return there


def config(**values: Any) -> LabelledJobConfig:
    given = {"train": {"uri": "train"}, "test": {"uri": "test"}, "val": {"fraction": 0}}
    return LabelledJobConfig.model_validate(given | values)


def read(**values: Any) -> LabelledData:
    return labelled_sets.read_sets(config(**values))


def judged(data: LabelledData, valid: list[bool] | None, content: list[int]) -> Any:
    readable = np.array(valid) if valid is not None else np.ones(data.num_rows, bool)
    return judging.judged(data, readable, np.array(content), config())


def test_a_class_only_the_test_set_has_is_left_out_counted_and_named(
    listed: dict[str, LabelledRows], capsys: pytest.CaptureFixture[str]
) -> None:
    listed |= {"train": rows("cat", "dog"), "test": rows("cat", "cow", "dog", first=10)}
    data = read()
    assert data.labels[data.of("test")].tolist() == [0, 1]
    _, data = judged(data, None, [0, 1, 2, 3])
    account = data.account
    assert account["test_only_classes"] == ["cow"]
    assert account["not_judged"] == {"test": {"cow": 1}}
    assert account["left_out"]["test"] == {labelled_sets.UNKNOWN: 1}
    assert account["left_out_names"]["test"] == {labelled_sets.UNKNOWN: ["cow/11.jpg"]}
    assert (account["num_classes"], account["classes"]) == (2, ["cat", "dog"])
    assert "classes that train.uri has not (1): cow" in capsys.readouterr().err


def test_a_test_set_that_is_the_training_set_is_refused(
    listed: dict[str, LabelledRows], tmp_path: Path
) -> None:
    os.symlink(tmp_path, tmp_path / "again")
    for train, test in ((f"{tmp_path}", f"{tmp_path}/again/"), ("s3://b/x/", "s3://b/x")):
        with pytest.raises(InputError, match=r"is train\.uri as well"):
            labelled_sets.check_places(config(train={"uri": train}, test={"uri": test}))
    labelled_sets.check_places(config(train={"uri": "s3://b/x"}, test={"uri": "s3://b/y"}))
    listed |= {"train": rows("cat", "dog"), "test": rows("cat", "dog")}
    with pytest.raises(InputError, match=r"every image of test\.uri test is in train\.uri train"):
        read()


def test_test_images_of_the_same_bytes_as_training_images_do_not_count(
    listed: dict[str, LabelledRows], capsys: pytest.CaptureFixture[str]
) -> None:
    listed |= {"train": rows("cat", "dog"), "test": rows("cat", "dog", "dog", first=1)}
    data = read()  # one file lies in both
    assert data.labels[data.of("test")].tolist() == [1, 1]
    kept, left = judged(data, None, [5, 6, 5, 7])
    assert kept.tolist() == [True, True, False, True]
    assert left.of("test").tolist() == [False, False, True]
    assert left.labels.tolist() == [0, 1, 1]
    assert left.account["duplicates"] == 2
    assert "2 images are in train.uri as well" in capsys.readouterr().err
    with pytest.raises(InputError, match="by content"):
        judged(data, None, [5, 6, 5, 6])


def test_a_class_that_lost_all_its_images_is_not_judged(listed: dict[str, LabelledRows]) -> None:
    listed |= {
        "train": rows("cat", "cow", "dog"),
        "test": rows("cat", "cow", "dog", "dog", first=10),
    }
    valid = [True, False, True, True, True, True, False]
    kept, data = judged(read(), valid, [1, 0, 2, 3, 4, 5, 0])
    assert kept.tolist() == [True, False, True, True, False, True, False]
    assert data.account["lost_classes"] == ["cow"]
    assert data.account["num_classes"] == 2
    assert data.account["unreadable"] == {"train": 1, "test": 1}
    assert data.account["unreadable_names"]["train"] == ["cow/1.jpg"]


def test_sets_of_which_nothing_can_be_read_are_refused(listed: dict[str, LabelledRows]) -> None:
    listed |= {"train": rows("cat", "dog"), "test": rows("cat", first=10)}
    with pytest.raises(InputError, match=r"train\.uri train: none of its 2 labelled samples"):
        judged(read(), [False, False, True], [0, 0, 1])
    with pytest.raises(InputError, match=r"test\.uri test: none of its 1 labelled samples"):
        judged(read(), [True, True, False], [1, 2, 0])


def test_folders_named_as_parts_of_a_data_set_are_judged_with_a_warning(
    listed: dict[str, LabelledRows], capsys: pytest.CaptureFixture[str]
) -> None:
    listed |= {"train": rows("Train", "val"), "test": rows("val", first=9)}
    assert read().classes == ("Train", "val")
    said = capsys.readouterr().err
    assert "judging 2 classes: Train, val" in said
    assert "warning: Train, val name parts of a data set" in said
    listed |= {"train": rows("train", "train")}
    with pytest.raises(InputError, match="has one class, train, and a probe needs at least"):
        read()


def test_lists_of_names_and_reasons_are_bounded(
    listed: dict[str, LabelledRows], capsys: pytest.CaptureFixture[str]
) -> None:
    many = rows(*(f"{number:05d}" for number in range(5000)))
    for number in range(5000):
        many.left_out.add(f"no image (.{number})", "x" * 500)
    listed |= {"train": many, "test": rows("00001", "x", first=9000)}
    _, data = judged(read(), None, list(range(5001)))
    account = data.account
    assert account["num_classes"] == 5000
    assert len(account["classes"]) == NAMES_KEPT
    assert sum(account["left_out"]["train"].values()) == 5000
    assert len(account["left_out"]["train"]) == MOST_REASONS + 1
    assert max(map(len, capsys.readouterr().err.splitlines())) < 1600


def test_a_set_without_class_folders_is_refused_with_what_was_left_out(
    listed: dict[str, LabelledRows],
) -> None:
    left_out = LeftOutNames(Counter({BESIDE: 7}), {BESIDE: ["a.jpg"]})
    listed |= {"train": LabelledRows(rows().rows, left_out)}
    with pytest.raises(InputError, match=r"\(7 x beside the class folders \(a\.jpg\)\)"):
        read()


def test_a_column_of_splits_is_honoured_where_only_train_is_given(
    listed: dict[str, LabelledRows],
) -> None:
    split = ["train", "test", None, "val", "train"]
    listed |= {"train": rows("cat", "cat", "dog", "dog", "dog", split=split)}
    data = read(test={})
    assert data.splits.tolist() == ["train", "train", "train", "val", "test"]
    assert data.val_drawn is False
    listed |= {"train": rows("cat", "dog")}
    with pytest.raises(InputError, match=r"of split test \(it has 2 of no split\): give test\.uri"):
        read(test={})


def test_samples_of_a_split_that_another_set_gives_are_left_out_and_counted(
    listed: dict[str, LabelledRows],
) -> None:
    listed |= {
        "train": rows("cat", "dog", "dog", split=["train", "train", "test"]),
        "test": rows("cat", "dog", first=10, split=["test", "train"]),
    }
    data = read()
    assert data.splits.tolist() == ["train", "train", "test"]
    assert data.account["left_out"] == {
        "train": {splitting.OTHER_SPLIT: 1},
        "test": {splitting.OTHER_SPLIT: 1},
    }


def test_one_label_and_several_are_never_mixed_in_silence(
    listed: dict[str, LabelledRows], capsys: pytest.CaptureFixture[str]
) -> None:
    listed |= {"train": rows("cat", "dog"), "test": rows("cat|dog", first=10)}
    with pytest.raises(InputError, match="sets of one and of several labels are not mixed"):
        read()
    listed |= {"train": rows("cat|dog", "cow"), "test": rows("cat|owl", "owl", first=10)}
    data = read()
    assert data.task == "classes"
    assert data.label_hot.astype(int).tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 0]]
    assert "train: 1 of 2 samples have several labels" in capsys.readouterr().err
    with pytest.raises(ValueError, match="of one class a sample"):
        _ = data.labels


def test_groups_on_both_sides_of_a_line_the_user_drew_are_warned_of(
    listed: dict[str, LabelledRows], capsys: pytest.CaptureFixture[str]
) -> None:
    listed |= {
        "train": rows("cat", "dog", group=["a", "b"]),
        "test": rows("cat", "dog", first=10, group=["b", None]),
    }
    data = read()
    assert "warning: 1 groups are in train and in test (b)" in capsys.readouterr().err
    assert data.groups.tolist() == [0, 1, 1, 5]
    assert judged(data, None, [0, 1, 2, 3])[1].account["num_test_groups"] is None
    listed["test"] = rows("cat", "dog", "dog", first=10, group=["c", "c", "d"])
    assert judged(read(), None, [0, 1, 2, 3, 4])[1].account["num_test_groups"] == 2
    assert "by group, 2 for 3" in capsys.readouterr().err


def test_labels_and_boxes_of_classes_only_the_test_set_has_are_counted_one_by_one(
    listed: dict[str, LabelledRows], capsys: pytest.CaptureFixture[str]
) -> None:
    listed |= {"train": rows("cat|dog"), "test": rows("cat|owl", "dog|owl", "elk|owl", first=10)}
    account = read().account
    assert account["test_only_classes"] == ["elk", "owl"]
    assert account["not_judged"] == {"test": {"elk": 1, "owl": 3}}
    assert account["left_out"]["test"] == {labelled_sets.UNKNOWN: 1}
    assert "has not (2): elk (1), owl (3): so many labels are not" in capsys.readouterr().err
    sides = {"x": 0.0, "y": 0.0, "width": 1.0, "height": 1.0, "crowd": False}
    boxes = [[{**sides, "label": name} for name in names] for names in (["cat"], ["cat", "owl"])]
    listed |= {
        "t.json": rows("cat", boxes=boxes[:1]),
        "test": rows("cat", "cat", first=10, boxes=[boxes[1], [*boxes[1], boxes[1][1]]]),
    }
    data = read(train={"uri": "t.json"})
    assert data.account["not_judged"] == {"test": {"owl": 3}}
    assert "owl (3): so many boxes are not judged" in capsys.readouterr().err


@pytest.fixture
def masked(
    listed: dict[str, LabelledRows], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., LabelledData]:
    """Reads sets of masks with given values."""

    def read_masks(
        train: list[set[int]], test: list[set[int]], **masks_keys: object
    ) -> LabelledData:
        for split, values, first in (("train", train, 0), ("test", test, 10)):
            names = [json.dumps(sorted(one)) for one in values]
            none = [None] * len(values)
            listed[split] = rows(*["x"] * len(values), first=first, mask_uri=names, labels=none)
        return read(columns={"mask": "mask"}, masks=masks_keys)

    def survey(found: pa.Table) -> tuple[list[set[int]], list[str | None]]:
        values = [set(json.loads(name)) for name in found["mask_uri"].to_pylist()]
        return values, [None] * len(values)

    monkeypatch.setattr(masks, "survey_masks", survey)
    return read_masks


def test_masks_of_255_and_one_other_value_are_two_classes(
    masked: Callable[..., LabelledData], capsys: pytest.CaptureFixture[str]
) -> None:
    data = masked([{0, 255}, {0}], [{0, 255}])
    assert (data.classes, data.values) == (("0", "255"), (0, 255))
    assert "masks have the values 0 and 255 alone: 255 is a class" in capsys.readouterr().err
    assert masked([{0, 1}, {1, 255}], [{0, 255}]).values == (0, 1)
    assert masked([{0, 9}, {255}], [{0, 255}], ignore=9).values == (0, 255)


@pytest.mark.parametrize(
    ("train", "keys", "said"),
    [
        ([{0, 255}], {"ignore": 255}, "255 leaves the masks of train.uri but one class, 0, and a"),
        ([{0}], {}, "masks.ignore 255 leaves the masks of train.uri but one class, 0"),
        ([{255}], {}, "masks.ignore 255 leaves the masks of train.uri no class"),
    ],
)
def test_masks_of_one_class_are_refused(
    masked: Callable[..., LabelledData], train: list[set[int]], keys: dict[str, int], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        masked(train, [{0, 255}], **keys)


def test_values_of_masks_that_training_has_not_are_no_classes_and_are_told(
    masked: Callable[..., LabelledData], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = masked([{0, 7}, {7, 255}], [{0, 7, 9}, {9}, {3}])
    assert (data.classes, data.values) == (("0", "7"), (0, 7))
    _, data = judged(data, None, [0, 1, 2, 3, 4])
    assert (data.account["num_classes"], data.account["classes"]) == (2, ["0", "7"])
    assert data.account["test_only_classes"] == ["3", "9"]
    assert data.account["not_judged"] == {"test": {"3": 1, "9": 2}}
    said = capsys.readouterr().err
    assert "has not (2): 3 (1), 9 (2): the pixels of so many masks are not judged" in said
    assert "judging 2 classes: 0, 7" in said
    names = tmp_path / "names.csv"
    names.write_text("index,name\n0,sky\n3,sea\n5,sun\n7,bird\n9,fish\n")
    data = masked([{0, 7}], [{9}], classes=str(names))
    assert data.classes == ("sky", "bird")
    assert data.account["test_only_classes"] == ["fish"]


@pytest.mark.parametrize(
    "given",
    [{"masks": {"uri": "m"}}, {"columns": {"mask": "m"}}, {"masks": {"classes": "names.csv"}}],
)
def test_whatever_is_said_of_masks_has_masks_judged(given: dict[str, Any]) -> None:
    assert labelled_sets.task_of(config()) == "class"
    assert labelled_sets.task_of(config(**given)) == "mask"
