"""pipelines.labels.coco: boxes of images found by path, and boxes that cannot be used counted."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines import schema
from pipelines.labels import coco
from pipelines.labels.coco import read_coco
from pipelines.labels.labelled_rows import LabelledRows

IMAGES = [
    {"id": 1, "file_name": "1.jpg", "width": 100, "height": 50},
    {"id": 2, "file_name": "./b/2.jpg", "width": 100, "height": 50},
    {"id": 3, "file_name": "gone.jpg", "width": 100, "height": 50},
]
CATEGORIES = [{"id": 5, "name": "dog"}, {"id": 9, "name": "cat "}]


def write(path: Path, annotations: list[dict[str, Any]], images: Any = None) -> str:
    said = {"images": images or IMAGES, "annotations": annotations, "categories": CATEGORIES}
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(said).encode())
    return str(path)


def samples(*names: str) -> LabelledRows:
    rows = [
        {
            "sample_id": i,
            "uri": f"/x/{n}",
            "offset": 0,
            "length": 1,
            "etag": "",
            "media": "image",
            "name": n,
        }
        for i, n in enumerate(names)
    ]
    return LabelledRows(pa.Table.from_pylist(rows, schema=schema.NAMED))


def box(number: int = 0, **values: Any) -> dict[str, Any]:
    return {"id": number, "image_id": 1, "category_id": 5, "bbox": [1, 2, 3, 4]} | values


def test_boxes_reach_their_images_by_path_and_categories_by_name(tmp_path: Path) -> None:
    uri = write(tmp_path / "c.json", [box(), box(image_id=2, category_id=9, iscrowd=1)])
    said = read_coco(uri)
    given = said.give({"train": samples("train/1.jpg", "b/2.jpg", "other.jpg")})["train"]
    assert given.names == ["train/1.jpg", "b/2.jpg"]
    assert given.classes == ["cat", "dog"]
    first, second = given.rows[schema.BOXES].to_pylist()
    assert first == [
        {"label": "dog", "x": 1.0, "y": 2.0, "width": 3.0, "height": 4.0, "crowd": False}
    ]
    assert second[0]["crowd"] is True
    assert given.rows[schema.WIDTH].to_pylist() == [100, 100]
    assert given.left_out.names == {coco.NO_ENTRY: ["other.jpg"]}
    assert said.unused().names == {coco.NO_FILE: ["gone.jpg"]}


def test_boxes_that_cannot_be_used_are_counted_and_others_are_cut_to_their_image(
    tmp_path: Path,
) -> None:
    bad = {
        coco.NO_SIZE: box(1, bbox=[1, 2, 0, 4]),
        coco.ODD_BOX: box(2, bbox=[1, 2]),
        coco.NO_CATEGORY: box(3, category_id=77),
        coco.NO_IMAGE: box(4, image_id=77),
        coco.OUTSIDE: box(5, bbox=[100, 2, 3, 4]),
    }
    nan = box(6, bbox=[1, 2, float("nan"), 4])
    cut = box(7, bbox=[-5, 40, 20, 20])
    said = read_coco(write(tmp_path / "c.json", [*bad.values(), nan, cut]))
    names = {reason: [f"annotation {one['id']}"] for reason, one in bad.items()}
    names[coco.ODD_BOX].append("annotation 6")
    assert said.left_out.names == names
    (left,) = said.images["1.jpg"][schema.BOXES]
    assert [left[side] for side in ("x", "y", "width", "height")] == [0, 40, 15, 10]


def test_several_files_are_one_and_a_name_in_both_is_nobodys(tmp_path: Path) -> None:
    write(tmp_path / "a.json", [box()], [IMAGES[0]])
    write(tmp_path / "b.json", [box(image_id=2)], IMAGES[:2])
    said = read_coco(str(tmp_path))
    given = said.give({"train": samples("1.jpg", "b/2.jpg")})["train"]
    assert given.left_out.names == {coco.AMBIGUOUS: ["1.jpg"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "is no COCO file: it has no list images, annotations, categories"),
        ('{"images": [], "annotations": []}', "it has no list categories"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "has no 'file_name'"),
    ],
)
def test_what_is_no_coco_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_coco(str(tmp_path / "c.json"))
