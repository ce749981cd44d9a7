"""What rows of predictions tell: whole videos, averages, names, and masks of the file's size."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from augment.palette import class_colours
from pipelines import schema
from pipelines.labels.coco import read_coco
from pipelines.predictions.answers import FOUND_BOXES, PROBABILITIES, TOLD_MASK
from pipelines.predictions.coco_file import write_coco
from pipelines.predictions.told_columns import BoxColumns, ClassColumns, MaskColumns, Samples
from pipelines.predictions.whole_videos import cuts


def samples(owner: list[int], names: list[str]) -> Samples:
    owners = np.array(owner, np.int64)
    first = np.unique(owners, return_index=True)[1]
    return Samples(pa.table({}), first, owners, np.arange(len(owners)), names)


def test_a_part_holds_whole_videos_and_as_many_as_it_can() -> None:
    sizes = [3, 1, 3, 0, 3, 1, 0, 1, 1]
    assert cuts([np.array(sizes)], 4) == [0, 2, 4, 7, 9]
    for at in range(len(sizes) + 1):
        assert cuts([np.array(sizes[:at]), np.array(sizes[at:])], 4) == [0, 2, 4, 7, 9]


def test_clips_of_a_video_are_averaged_and_classes_named_likeliest_first() -> None:
    told = np.array([[0.5, 0.25, 0.25], [0, 0.25, 0.75], [0.9, 0.1, 0]], np.float32)
    columns = ClassColumns(("a", "b", "c"), several=False, top_k=2, threshold=0.5, every=True)
    made = columns.columns({PROBABILITIES: told}, samples([0, 0, 1], ["v", "i"]), None)
    assert made[schema.LABEL].to_pylist() == ["c", "a"]
    assert made[schema.TOP_LABELS].to_pylist() == [["c", "a"], ["a", "b"]]
    assert made[PROBABILITIES].to_pylist()[0] == [0.25, 0.25, 0.5]
    assert list(made) == [one.name for one in columns.fields]


def test_of_several_labels_those_of_the_threshold_are_the_samples() -> None:
    told = np.array([[0.5, 0.9, 0.1], [0, 0, 0]], np.float32)
    columns = ClassColumns(("a", "b", "c"), several=True, top_k=9, threshold=0.5, every=False)
    made = columns.columns({PROBABILITIES: told}, samples([0, 1], ["x", "y"]), None)
    assert made[schema.LABELS].to_pylist() == [["a", "b"], []]
    assert made[schema.TOP_LABELS].to_pylist()[0] == ["b", "a", "c"]


def test_a_mask_is_of_its_files_size_and_keeps_its_indices(tmp_path: Path) -> None:
    told = np.full((1, 8, 8), 9, np.uint8)  # what was fitted: 4 rows of 8, the rest is no image
    told[0, :4, :4] = 1
    told[0, :4, 4:] = 2
    batch = {TOLD_MASK: told, schema.HEIGHT: np.array([10]), schema.WIDTH: np.array([20])}
    made = MaskColumns(str(tmp_path), 8, 3).columns(batch, samples([0], ["a/x.jpg"]), None)
    place = made[schema.MASK].to_pylist()[0]
    assert place == str(tmp_path / "a" / "x.jpg.png")
    image = Image.open(io.BytesIO(Path(place).read_bytes()))
    mask = np.asarray(image)
    assert image.mode == "P" and mask.shape == (10, 20)
    assert (mask[:, :10] == 1).all() and (mask[:, 10:] == 2).all()
    assert made[schema.CLASS_PIXELS].to_pylist() == [[0, 100, 100]]
    assert np.asarray(image.convert("RGB"))[0, 0].tolist() == class_colours(3)[1].tolist()
    by_value = MaskColumns(str(tmp_path), 8, 3, (0, 7, 255))
    assert by_value.columns(batch, samples([0], ["x.jpg"]), None)[schema.CLASS_PIXELS].to_pylist()
    written = np.asarray(Image.open(tmp_path / "x.jpg.png"))
    assert (written[:, :10] == 7).all() and (written[:, 10:] == 255).all()


def test_no_two_classes_have_one_colour() -> None:
    colours = class_colours(256)
    assert len(np.unique(colours, axis=0)) == 256
    assert colours[:3].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0]]


def test_of_a_part_of_which_nothing_could_be_used_nothing_is_told(tmp_path: Path) -> None:
    batch = {
        PROBABILITIES: np.zeros((2, 3), np.float32),
        TOLD_MASK: np.zeros((2, 8, 8), np.uint8),
        FOUND_BOXES: np.zeros((2, 18), np.float32),
        schema.HEIGHT: np.array([10, 10]),
        schema.WIDTH: np.array([20, 20]),
    }
    names = ("a", "b", "c")
    one = ClassColumns(names, several=False, top_k=2, threshold=0.5, every=True)
    more = ClassColumns(names, several=True, top_k=2, threshold=0.5, every=True)
    for columns in (one, more, MaskColumns(str(tmp_path), 8, 3), BoxColumns(names, 0.05)):
        made = columns.columns(batch, samples([], []), None)
        table = pa.table(made, schema=pa.schema(columns.fields))
        assert table.num_rows == 0 and not list(tmp_path.iterdir())


def test_boxes_are_rows_and_a_coco_file_that_reads_back(tmp_path: Path) -> None:
    found = np.zeros((2, 3, 6), np.float32)
    found[..., 4] = -1
    found[0, 0] = [1, 2, 3, 4, 1, 0.75]
    found[0, 1] = [5, 6, 7, 8, 0, 0.01]
    batch = {FOUND_BOXES: found.reshape(2, -1), schema.HEIGHT: np.array([20, 30])}
    batch[schema.WIDTH] = np.array([40, 50])
    columns = BoxColumns(("cat", "dog"), 0.05)
    made = columns.columns(batch, samples([0, 1], ["x", "y"]), None)
    box = {"label": "dog", "x": 1, "y": 2, "width": 3, "height": 4, "score": 0.75}
    assert made[schema.BOXES].to_pylist() == [[box], []]
    places = {schema.URI: ["/s/a/x.jpg", "/s/t.tar"], schema.MEMBER: [None, "b/y.jpg"]}
    parts = []
    for index in range(2):
        rows = pa.table(places | made).slice(index, 1)
        parts.append(str(tmp_path / f"{index}.parquet"))
        pq.write_table(rows, parts[-1])
    write_coco(str(tmp_path / "coco.json"), parts, "/s/", columns.classes)
    images = read_coco(str(tmp_path / "coco.json")).images
    assert list(images) == ["a/x.jpg", "t.tar/b/y.jpg"]
    assert images["a/x.jpg"]["boxes"][0]["label"] == "dog" and images["a/x.jpg"]["width"] == 40
    assert images["t.tar/b/y.jpg"]["boxes"] == []
