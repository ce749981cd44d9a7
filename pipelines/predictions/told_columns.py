"""What rows of predictions have beside their sample: classes and probabilities, or masks."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from PIL import Image

from augment.palette import class_colours
from pipelines import schema
from pipelines.embeddings.clip_means import means
from pipelines.predictions.answers import FOUND_BOXES, PROBABILITIES, TOLD_MASK
from pipelines.storage import uris
from pipelines.storage.lease import Fence
from pipelines.storage.small_files import side_by_side
from pipelines.stream.shapes import fitted

Columns = dict[str, pa.Array]
_SIDES = (schema.HEIGHT, schema.WIDTH)


class Told(Protocol):
    """Makes the columns of a part, and writes files that they name."""

    @property
    def fields(self) -> list[pa.Field]:
        """Return the fields of the columns."""

    def columns(
        self, batch: Mapping[str, np.ndarray], samples: "Samples", fence: Fence | None
    ) -> Columns:
        """Make the columns of the samples of a part."""


@dataclass(frozen=True, eq=False)
class Samples:
    """The samples of a part of which something could be read, n of them.

    Attributes:
        rows: The first manifest row of each.
        first: (n,) its position in the batch, of a clip that could be read.
        owner: (m,) the sample of each clip that could be read.
        clips: (m,) positions of these in the batch.
        names: The path of each below the source.
    """

    rows: pa.Table
    first: np.ndarray
    owner: np.ndarray
    clips: np.ndarray
    names: list[str]


@dataclass(frozen=True)
class ClassColumns:
    """Classes by name, with their probabilities.

    Attributes:
        classes: Names in the order of the probabilities.
        several: Whether a sample may have several.
        top_k: How many classes, the likeliest first.
        threshold: Several: a class of at least this probability is one of the sample's.
        every: Whether a column has the probabilities of all classes.
    """

    classes: tuple[str, ...]
    several: bool
    top_k: int
    threshold: float
    every: bool

    @property
    def fields(self) -> list[pa.Field]:
        """Return the fields of the columns."""
        names = pa.list_(pa.string())
        own = (
            [pa.field(schema.LABELS, names)]
            if self.several
            else [
                pa.field(schema.LABEL, pa.string()),
                pa.field(schema.PROBABILITY, pa.float32()),
            ]
        )
        vector = pa.field(PROBABILITIES, pa.list_(pa.float32(), len(self.classes)))
        return [
            *own,
            pa.field(schema.TOP_LABELS, names),
            pa.field(schema.TOP_PROBABILITIES, pa.list_(pa.float32())),
            *([vector] if self.every else []),
        ]

    def columns(
        self, batch: Mapping[str, np.ndarray], samples: Samples, fence: Fence | None
    ) -> Columns:
        """Average the clips of each sample and name its classes."""
        told = means(batch[PROBABILITIES][samples.clips], samples.owner, len(samples.first))
        names = np.array(self.classes, object)
        order = np.argsort(-told, axis=1, kind="stable")[:, : self.top_k]
        top = np.take_along_axis(told, order, 1)
        columns: Columns = {}
        if self.several:
            named = [names[np.flatnonzero(row >= self.threshold)].tolist() for row in told]
            columns[schema.LABELS] = pa.array(named, pa.list_(pa.string()))
        else:
            columns[schema.LABEL] = pa.array(names[order[:, 0]].tolist(), pa.string())
            columns[schema.PROBABILITY] = pa.array(top[:, 0])
        columns[schema.TOP_LABELS] = pa.array(names[order].tolist(), pa.list_(pa.string()))
        columns[schema.TOP_PROBABILITIES] = pa.array(top.tolist(), pa.list_(pa.float32()))
        if self.every:
            flat = pa.array(told.reshape(-1))
            columns[PROBABILITIES] = pa.FixedSizeListArray.from_arrays(flat, len(self.classes))
        return columns


@dataclass(frozen=True)
class MaskColumns:
    """Masks as palette PNG files of the size of their images, written beside the rows.

    Attributes:
        folder: Where the masks go; each lies as its sample below the source, with `.png` behind.
        image_size: S, the longer side of what was looked at, px.
        num_classes: C.
        values: What each class is called in mask files; empty: by its place.
    """

    folder: str
    image_size: int
    num_classes: int
    values: tuple[int, ...] = ()

    @property
    def fields(self) -> list[pa.Field]:
        """Return the fields of the columns."""
        return [
            pa.field(schema.MASK, pa.string()),
            pa.field(schema.HEIGHT, pa.int32()),
            pa.field(schema.WIDTH, pa.int32()),
            pa.field(schema.CLASS_PIXELS, pa.list_(pa.int64(), self.num_classes)),
        ]

    def columns(
        self, batch: Mapping[str, np.ndarray], samples: Samples, fence: Fence | None
    ) -> Columns:
        """Write the mask of each sample and count its pixels."""
        values = np.array(self.values or range(self.num_classes), np.uint8)
        heights = batch[schema.HEIGHT][samples.first]
        widths = batch[schema.WIDTH][samples.first]
        if fence:
            fence.check()

        def write(index: int) -> np.ndarray:
            told = batch[TOLD_MASK][samples.first[index]]
            mask = of_file_size(told, int(heights[index]), int(widths[index]))
            uris.write_bytes(self._place(samples.names[index]), palette_png(values[mask]))
            return np.bincount(mask.reshape(-1), minlength=self.num_classes)

        pixels = list(side_by_side(write, range(len(samples.names))))
        counted = np.array(pixels, np.int64).reshape(-1)
        places = [self._place(name) for name in samples.names]
        return {
            schema.MASK: pa.array(places, pa.string()),
            schema.HEIGHT: pa.array(heights, pa.int32()),
            schema.WIDTH: pa.array(widths, pa.int32()),
            schema.CLASS_PIXELS: pa.FixedSizeListArray.from_arrays(
                pa.array(counted), self.num_classes
            ),
        }

    def _place(self, name: str) -> str:
        # the whole name: a.jpg and a.png are two samples
        return uris.join(self.folder, f"{name}.png")


@dataclass(frozen=True)
class BoxColumns:
    """Boxes in px of the file's image, the surest first.

    Attributes:
        classes: Names by index.
        threshold: Boxes of a lower score are left out.
    """

    classes: tuple[str, ...]
    threshold: float

    @property
    def fields(self) -> list[pa.Field]:
        """Return the fields of the columns."""
        sides = [pa.field(name, pa.float32()) for name in ("x", "y", "width", "height")]
        box = [pa.field(schema.LABEL, pa.string()), *sides, pa.field(schema.SCORE, pa.float32())]
        return [
            pa.field(schema.HEIGHT, pa.int32()),
            pa.field(schema.WIDTH, pa.int32()),
            pa.field(schema.BOXES, pa.list_(pa.struct(box))),
        ]

    def columns(
        self, batch: Mapping[str, np.ndarray], samples: Samples, fence: Fence | None
    ) -> Columns:
        """Name the boxes of each sample."""
        found = batch[FOUND_BOXES][samples.first]
        found = found.reshape(len(found), found.shape[1] // 6, 6)  # of no image too
        sides = [pa.array(batch[name][samples.first], pa.int32()) for name in _SIDES]
        boxes = [[self._box(box) for box in rows if self._is_told(box)] for rows in found]
        columns: Columns = dict(zip(_SIDES, sides, strict=True))
        return columns | {schema.BOXES: pa.array(boxes, self.fields[-1].type)}

    def _is_told(self, box: np.ndarray) -> bool:
        return bool(box[4] >= 0 and box[5] >= self.threshold)

    def _box(self, box: np.ndarray) -> dict[str, Any]:
        x, y, width, height, label, score = box.tolist()
        sides = {"x": x, "y": y, "width": width, "height": height}
        return {schema.LABEL: self.classes[int(label)], **sides, schema.SCORE: score}


def of_file_size(told: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize what was told of a `Fitted` image (S, S) to the size of its file (H, W), each pixel
    as the nearest."""
    inner_height, inner_width = fitted(height, width, told.shape[0])
    rows = (np.arange(height) * 2 + 1) * inner_height // (2 * height)
    columns = (np.arange(width) * 2 + 1) * inner_width // (2 * width)
    mask: np.ndarray = told[rows[:, None], columns]
    return mask


def palette_png(mask: np.ndarray) -> bytes:
    """Write class indices (H, W) uint8 as a PNG with a palette, which keeps the indices."""
    image = Image.fromarray(mask, "P")
    image.putpalette(class_colours(256).tobytes())
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=3)
    return file.getvalue()
