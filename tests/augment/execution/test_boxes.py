"""Boxes lie in a crop where the pixels of their objects do."""

from typing import cast

import numpy as np
import torch

from augment.execution.boxes import crop_boxes
from augment.picture import Picture
from augment.recipe import CropGroup, Views
from pipelines import schema
from pipelines.stream.shapes import BoxFiller, Crops

NONE = [0, 0, 0, 0, -1]


def test_boxes_follow_crop_resize_and_flip() -> None:
    boxes = np.array([[30, 20, 20, 10, 2], [10, 20, 20, 10, 1], NONE], np.float32)
    told = crop_boxes(boxes, (10, 20, 40, 80), 160, flip=False)
    assert told.tolist() == [[20, 40, 60, 80, 2], [0, 40, 20, 80, 1], NONE]
    mirrored = crop_boxes(boxes, (10, 20, 40, 80), 160, flip=True)
    assert mirrored.tolist() == [[100, 40, 140, 80, 2], [140, 40, 160, 80, 1], NONE]


def test_a_box_that_hardly_shows_is_none() -> None:
    box = np.array([[0, 0, 10, 10, 0]], np.float32)
    assert crop_boxes(box, (0, 6, 20, 20), 20, flip=False)[0, 4] == 0
    assert crop_boxes(box, (0, 8, 20, 20), 20, flip=False)[0].tolist() == NONE
    assert crop_boxes(box, (0, 30, 20, 20), 20, flip=False)[0].tolist() == NONE


def test_a_crop_and_its_boxes_show_the_same_object() -> None:
    """A bright rectangle lies where its box says, in crops as they are drawn."""
    views = Views(size=64, groups={"images": CropGroup(scale=(0.3, 1.0), flip=0.5)})
    shape = Crops(views, 3, photometric=True, boxes=1)
    columns = shape.empty(24)
    keys = (np.zeros(24, np.int64), np.arange(24))
    filler = shape.filler(columns, *keys)
    pixels = np.zeros((90, 120, 3), np.uint8)
    pixels[24:60, 40:88] = 255
    box = np.array([[40, 24, 48, 36, 5]], np.float32)
    for row in range(24):
        filler.fill(row, Picture.whole(pixels))
        cast(BoxFiller, filler).fill_boxes(row, box, 90, 120)
    seen = 0
    for image, (left, top, right, bottom, label) in zip(
        torch.from_numpy(columns["images"][:, 0, 0]), columns[schema.BOXES][:, 0], strict=True
    ):
        if label < 0:
            continue
        rows, places = torch.where(image > 127)
        edges = [places.min(), rows.min(), places.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(np.array(edges), [left, top, right, bottom], atol=1.01)
        seen += 1
    assert seen >= 12
