"""Boxes around objects, as COCO JSON files have them: `images`, `annotations` with `bbox` of x, y,
width, height in pixels, `categories` by name."""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipelines import schema
from pipelines.corpus.file_kinds import suffix_of
from pipelines.corpus.listing import entries
from pipelines.labels.labelled_data import Split
from pipelines.labels.labelled_rows import LabelledRows, LeftOutNames, nfc, with_column
from pipelines.labels.paired_paths import NONE, SEVERAL, pair_paths
from pipelines.storage import uris

NO_ENTRY = "image that the COCO file does not name"
NO_FILE = "image of the COCO file that is not there"
AMBIGUOUS = "image whose path does not tell which entry of a COCO file is its own"
NO_SIZE = "box without area"
OUTSIDE = "box outside of its image"
NO_IMAGE = "box of an image that is not named"
NO_CATEGORY = "box of a category that is not named"
ODD_BOX = "box that is not four numbers"
_SIDES = ("x", "y", "width", "height")


@dataclass
class CocoImages:
    """What COCO files say of images.

    Attributes:
        images: By name in NFC: `height`, `width`, `boxes`.
        left_out: Boxes that cannot be used.
        used: Names that a sample has been found for.
    """

    images: dict[str, dict[str, Any]]
    left_out: LeftOutNames = field(default_factory=LeftOutNames)
    used: set[str] = field(default_factory=set)
    twice: set[str] = field(default_factory=set)

    def give(self, sets: dict[Split, LabelledRows]) -> dict[Split, LabelledRows]:
        """Give the samples of all sets their boxes; leave out those that no COCO file names.

        An image without a box is one in which there is nothing. Images are found as `pair_paths`
        says.
        """
        things = list(self.images)
        names = [name for one in sets.values() for name in one.names]
        ids = [i for one in sets.values() for i in one.rows[schema.SAMPLE_ID].to_pylist()]
        found = pair_paths(names, ids, things)
        twice = [index for index, name in enumerate(things) if name in self.twice]
        found[np.isin(found, twice)] = SEVERAL
        given = {}
        start = 0
        for split, one in sets.items():
            given[split] = self._give(one, found[start : start + one.rows.num_rows], things)
            start += one.rows.num_rows
        return given

    def _give(self, found: LabelledRows, index: np.ndarray, things: list[str]) -> LabelledRows:
        said = [self.images[things[at]] if at >= 0 else {} for at in index.tolist()]
        self.used |= {things[at] for at in index.tolist() if at >= 0}
        rows = found.rows
        for column in (schema.HEIGHT, schema.WIDTH, schema.BOXES):
            rows = with_column(rows, column, [one.get(column) for one in said])
        given = LabelledRows(rows, found.left_out, found.empty)
        none = index == NONE
        return given.without(none, NO_ENTRY).without((index == SEVERAL)[~none], AMBIGUOUS)

    def unused(self) -> LeftOutNames:
        """Return what was left out, with the images that no set had."""
        left_out = self.left_out + LeftOutNames()
        left_out.add_all(NO_FILE, [name for name in self.images if name not in self.used])
        return left_out


def read_coco(uri: str) -> CocoImages:
    """Read a COCO file, or all of a folder or glob.

    Args:
        uri: The file, folder or glob.

    Raises:
        ValueError: there is none, or it is none, with what is missing.
    """
    uri = uris.absolute(uri)
    one = suffix_of(uri) == ".json" and uris.exists(uri)
    files = (
        [uri]
        if one
        else sorted(entry.uri for entry in entries(uri) if suffix_of(entry.uri) == ".json")
    )
    if not files:
        raise ValueError(f"source.uri {uri} holds no COCO file (.json)")
    every = CocoImages({})
    for file in files:
        part = _read_file(file)
        every.twice |= part.twice | (set(part.images) & set(every.images))
        every.images |= part.images
        every.left_out = every.left_out + part.left_out
    return every


def _read_file(uri: str) -> CocoImages:
    try:
        said = json.loads(uris.read_bytes(uri).decode("utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"source.uri {uri} is no JSON ({error})") from None
    missing = [
        name
        for name in ("images", "annotations", "categories")
        if not isinstance(said.get(name) if isinstance(said, dict) else None, list)
    ]
    if missing:
        raise ValueError(f"source.uri {uri} is no COCO file: it has no list {', '.join(missing)}")
    try:
        categories = {one["id"]: nfc(str(one["name"]).strip()) for one in said["categories"]}
        images = {one["id"]: one for one in said["images"]}
        names = {key: _name(one["file_name"]) for key, one in images.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"source.uri {uri} is no COCO file: an image or category has no {error}"
        ) from None
    left_out = LeftOutNames()
    boxes: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for box in said["annotations"]:
        _add(box, boxes, images, categories, left_out)
    found: dict[str, dict[str, Any]] = {}
    twice: set[str] = set()
    for key, one in images.items():
        if names[key] in found:
            twice.add(names[key])
        found[names[key]] = {
            schema.HEIGHT: one.get("height"),
            schema.WIDTH: one.get("width"),
            schema.BOXES: boxes[key],
        }
    return CocoImages(found, left_out, set(), twice)


def _name(file_name: str) -> str:
    return nfc("/".join(part for part in file_name.split("/") if part not in ("", ".")))


def _add(
    box: Any,
    boxes: dict[Any, list[dict[str, Any]]],
    images: dict[Any, dict[str, Any]],
    categories: dict[Any, str],
    left_out: LeftOutNames,
) -> None:
    """Take one box, cut to its image, or count why it cannot be used."""
    if not isinstance(box, dict):
        left_out.add(ODD_BOX, str(box)[:40])
        return
    name = f"annotation {box.get('id', '?')}"
    image = images.get(box.get("image_id"))
    if image is None:
        left_out.add(NO_IMAGE, name)
        return
    if box.get("category_id") not in categories:
        left_out.add(NO_CATEGORY, name)
        return
    try:
        x, y, width, height = (float(value) for value in box["bbox"])
    except (KeyError, TypeError, ValueError):
        left_out.add(ODD_BOX, name)
        return
    right, bottom = x + width, y + height
    if not np.isfinite([x, y, right, bottom]).all():
        left_out.add(ODD_BOX, name)
        return
    if width <= 0 or height <= 0:
        left_out.add(NO_SIZE, name)
        return
    left = max(x, 0.0)
    top = max(y, 0.0)
    right = min(right, float(image.get("width") or right))
    bottom = min(bottom, float(image.get("height") or bottom))
    if right <= left or bottom <= top:
        left_out.add(OUTSIDE, name)
        return
    sides = dict(zip(_SIDES, (left, top, right - left, bottom - top), strict=True))
    what = {schema.LABEL: categories[box["category_id"]], "crowd": bool(box.get("iscrowd"))}
    boxes[box["image_id"]].append(sides | what)
