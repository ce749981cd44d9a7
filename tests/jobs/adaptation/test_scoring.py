"""jobs.adaptation.scoring: scores of masks and boxes without what the pretraining corpus has."""

import numpy as np
import pyarrow as pa
import pytest

from jobs.adaptation.scoring import score
from pipelines import schema
from pipelines.labels.labelled_data import LabelledData, Task

LEAKED = np.array([True, False, False, True])
SQUARE = {"x": 0.0, "y": 0.0, "width": 9.0, "height": 9.0, "label": 0, "crowd": False}


def data_of(task: Task, classes: tuple[str, ...]) -> LabelledData:
    boxes = schema.LABELLED.field(schema.BOXES).type
    columns = {
        schema.BOXES: pa.array([[SQUARE]] * 4, boxes),
        schema.GROUP: pa.nulls(4, pa.string()),
        schema.SPLIT: ["test"] * 4,
    }
    return LabelledData(pa.table(columns), classes, task)


def test_masks_are_scored_without_the_images_that_leaked() -> None:
    told = np.array([[8, 0, 0, 8], [4, 4, 0, 8], [6, 2, 2, 6], [8, 0, 0, 8]])
    data = data_of("mask", ("a", "b"))
    scored = score(data, told)
    rest = score(data.keep(~LEAKED), told[~LEAKED])
    wanted = {"x_unleaked_miou": rest.value, "x_unleaked_ci95": rest.scores["ci95"]}
    assert scored.value > rest.value
    assert scored.unleaked(LEAKED, "x_") == wanted
    assert scored.unleaked(None) == {}
    assert set(scored.unleaked(np.ones(4, bool)).values()) == {None}


def test_boxes_are_scored_without_the_images_that_leaked() -> None:
    pytest.importorskip("pycocotools")
    found = np.array([[0, 0, 9, 9, 0, 0.9]] * 2 + [[50, 50, 9, 9, 0, 0.8]] * 2, np.float32)
    scored = score(data_of("boxes", ("a",)), found)
    assert scored.value == pytest.approx(0.5, abs=0.01)
    leaked = np.array([False, False, True, True])
    assert scored.unleaked(leaked)["unleaked_map50"] == pytest.approx(1)
