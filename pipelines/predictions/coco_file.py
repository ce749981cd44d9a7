"""One COCO file of all boxes that were told, written part by part."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from pipelines import schema
from pipelines.predictions.prediction_sink import sample_name
from pipelines.storage import uris
from pipelines.storage.lease import Fence
from pipelines.storage.parquet_files import open_parquet

Row = dict[str, Any]


def write_coco(
    uri: str, parts: Sequence[str], root: str, classes: Sequence[str], fence: Fence | None = None
) -> None:
    """Write a COCO file; of the parts one is in memory at a time.

    Images come in the order of the parts and are numbered from 1, and so are categories, in the
    order of the classes. An annotation has its `score` beside its box.

    Args:
        uri: Where to.
        parts: URIs of the predictions, in order.
        root: Folder below which the names of samples begin, with its slash.
        classes: Names of the categories.
        fence: Of the lease on the folder.
    """
    numbers = {name: number for number, name in enumerate(classes, 1)}
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    with uris.open_atomic(uri) as file:
        file.write(f'{{"categories": {json.dumps(categories)},\n"images": ['.encode())
        for text in _joined(_images(parts, root)):
            file.write(text.encode())
        file.write(b'],\n"annotations": [')
        for text in _joined(_annotations(parts, numbers)):
            file.write(text.encode())
        file.write(b"]}\n")
        if fence:
            fence.check()


def _joined(entries: Iterator[dict[str, Any]]) -> Iterator[str]:
    comma = "\n"
    for entry in entries:
        yield comma + json.dumps(entry)
        comma = ",\n"


def _images(parts: Sequence[str], root: str) -> Iterator[dict[str, Any]]:
    columns = (schema.URI, schema.MEMBER, schema.HEIGHT, schema.WIDTH)
    for number, row in enumerate(_rows(parts, columns), 1):
        name = sample_name(root, row[schema.URI], row[schema.MEMBER])
        sides = {"width": row[schema.WIDTH], "height": row[schema.HEIGHT]}
        yield {"id": number, "file_name": name, **sides}


def _annotations(parts: Sequence[str], numbers: dict[str, int]) -> Iterator[dict[str, Any]]:
    count = 0
    for number, row in enumerate(_rows(parts, (schema.BOXES,)), 1):
        for box in row[schema.BOXES]:
            count += 1
            sides = [round(box[name], 2) for name in ("x", "y", "width", "height")]
            yield {
                "id": count,
                "image_id": number,
                "category_id": numbers[box[schema.LABEL]],
                "bbox": sides,
                "area": round(sides[2] * sides[3], 2),
                "iscrowd": 0,
                "score": round(box[schema.SCORE], 5),
            }


def _rows(parts: Sequence[str], columns: Sequence[str]) -> Iterator[Row]:
    for part in parts:
        yield from open_parquet(part).read(columns=list(columns)).to_pylist()
