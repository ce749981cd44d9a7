"""Shapes: what becomes of decoded images and clips in a block of the stream."""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from augment.execution.boxes import crop_boxes, fitted
from augment.execution.cutter import Cutter
from augment.execution.geometry import (
    centre_crop,
    crop_resize,
    in_square,
    reduction_for,
    resize_whole,
)
from augment.picture import Picture
from augment.recipe import PairKind, Views
from pipelines import schema

Columns = dict[str, np.ndarray]


class Filler(Protocol):
    """Fills the columns of a block row by row."""

    def reduction(self, row: int, height: int, width: int) -> int:
        """Return by how much a row's image of this size may be decoded smaller: 1, 2, 4 or 8."""

    def fill(self, row: int, picture: Picture) -> None:
        """Fill a row from its image while that is in the cache.

        In the columns of `Clips`, a row is filled from T frames, or its first frames from fewer.
        """


class MaskFiller(Filler, Protocol):
    """Fills masks too: of shapes that have a column for them."""

    def fill_mask(self, row: int, mask: np.ndarray) -> None:
        """Fill a row's class indices from (H, W) uint8, after its image."""


class BoxFiller(Filler, Protocol):
    """Fills boxes too: of shapes that have a column for them."""

    def fill_boxes(self, row: int, boxes: np.ndarray, height: int, width: int) -> None:
        """Fill a row's boxes from (M, 5), x, y, width, height and class, of an image of this
        size."""


class PairFiller(Filler, Protocol):
    """Fills second images too: of shapes that have a column for them."""

    def fill_pair(self, row: int, pixels: np.ndarray) -> None:
        """Fill a row from its second image, (H, W, 3) uint8 or (H, W) int32, of the first's
        size."""


class Shape(Protocol):
    """Turns decoded images into the fixed-shape columns of a block."""

    def empty(self, num_rows: int) -> Columns:
        """Allocate the columns of a block, whatever they hold."""

    def filler(self, columns: Columns, epoch: np.ndarray, sample_id: np.ndarray) -> Filler:
        """Prepare to fill the columns of `empty`."""


@dataclass(frozen=True)
class Crops:
    """The crops of every view, drawn by the key of each sample; with `photometric`, coloured here
    as well.

    Crops with masks or boxes are cut out of the square that holds the image whole, as objects are
    as large in it as where `Fitted` shows them.

    Attributes:
        views: The recipe.
        seed: The run's seed.
        photometric: Whether colours are changed here.
        masks: Whether a column has the class indices of the first group's first view, by nearest
            neighbour; its views must be upright.
        boxes: M, the boxes of each sample that a column has in px of that view; 0: none.
        ignore, rest: Class index and colour of the rest of that square, as of `Fitted`.
        pair: Kind of the second images that a column has: cut and mirrored as each view of the
            first group is, colours left alone; depths by nearest neighbour, as none lies between
            two surfaces. None: no column.
    """

    views: Views
    seed: int
    photometric: bool
    masks: bool = False
    boxes: int = 0
    ignore: int = 255
    rest: tuple[int, int, int] = (0, 0, 0)
    pair: PairKind | None = None

    def empty(self, num_rows: int) -> Columns:
        """Allocate (B, V, 3, S, S) uint8 a group, masks (B, S, S) uint8, boxes (B, M, 5), and
        second images (B, V, 3, S, S) uint8 or (B, V, 1, S, S) int32."""
        columns = dict[str, np.ndarray]()
        for name, group in self.views.groups.items():
            side = self.views.group_size(name)
            columns[name] = np.empty((num_rows, group.count, 3, side, side), np.uint8)
        first = next(iter(columns.values()))
        if self.masks:
            columns[schema.MASK] = np.empty_like(first[:, 0, 0])
        if self.boxes:
            columns[schema.BOXES] = np.empty((num_rows, self.boxes, 5), np.float32)
        if self.pair == "depth":
            columns[schema.PAIR] = np.empty_like(first[:, :, :1], np.int32)
        elif self.pair:
            columns[schema.PAIR] = np.empty_like(first)
        return columns

    def filler(self, columns: Columns, epoch: np.ndarray, sample_id: np.ndarray) -> Filler:
        """Draw every view; a row's are cut from one decode."""
        crops = {name: column for name, column in columns.items() if name in self.views.groups}
        keys = (epoch, sample_id)
        cutter = Cutter(self.views, self.seed, crops, *keys, photometric=self.photometric)
        size = next(iter(crops.values())).shape[-1]
        if self.masks or self.boxes:
            return _LabelledCropFiller(cutter, columns, size, self.ignore, self.rest)
        if self.pair:
            return _PairedCropFiller(cutter, columns, size)
        return cutter


@dataclass(frozen=True)
class _LabelledCropFiller:
    cutter: Cutter
    columns: Columns
    size: int
    ignore: int
    rest: tuple[int, int, int]

    def reduction(self, row: int, height: int, width: int) -> int:
        side = max(height, width)
        return self.cutter.reduction(row, side, side)

    def fill(self, row: int, picture: Picture) -> None:
        self.cutter.fill(row, in_square(picture, self.rest))

    def fill_mask(self, row: int, mask: np.ndarray) -> None:
        side = max(mask.shape)
        square = np.full((side, side), self.ignore, np.uint8)
        square[: mask.shape[0], : mask.shape[1]] = mask
        box = self.cutter.first_box(row, side, side)
        self.columns[schema.MASK][row] = _cut_nearest(square, box, self.size)

    def fill_boxes(self, row: int, boxes: np.ndarray, height: int, width: int) -> None:
        side = max(height, width)
        top, left, tall, wide, flip = self.cutter.first_box(row, side, side)
        cropped = crop_boxes(boxes, (top, left, tall, wide), self.size, flip=flip)
        self.columns[schema.BOXES][row] = cropped


@dataclass(frozen=True)
class _PairedCropFiller:
    cutter: Cutter
    columns: Columns
    size: int

    def reduction(self, row: int, height: int, width: int) -> int:
        return self.cutter.reduction(row, height, width)

    def fill(self, row: int, picture: Picture) -> None:
        self.cutter.fill(row, picture)

    def fill_pair(self, row: int, pixels: np.ndarray) -> None:
        for view, target in enumerate(self.columns[schema.PAIR][row]):
            box = self.cutter.first_box(row, pixels.shape[0], pixels.shape[1], view)
            if pixels.ndim == 3:
                crop_resize(Picture.whole(pixels), *box, self.size, target)
            else:
                target[0] = _cut_nearest(pixels, box, self.size)


@dataclass(frozen=True)
class Centre:
    """The largest centred square of each image, for embedding.

    Attributes:
        size: S, its side.
        times: Whether columns say when the frames of videos are on display.
        masks: Whether a column has the class indices of the same square, by nearest neighbour.
    """

    size: int
    times: bool = False
    masks: bool = False

    def empty(self, num_rows: int) -> Columns:
        """Allocate (B, 3, S, S) uint8, the times (B,) float64, and masks (B, S, S) uint8."""
        times = (schema.START_S, schema.END_S, schema.LASTS_S) if self.times else ()
        images = np.empty((num_rows, 3, self.size, self.size), np.uint8)
        columns = {schema.IMAGE: images} | {name: np.full(num_rows, np.nan) for name in times}
        return columns | ({schema.MASK: np.empty_like(images[:, 0])} if self.masks else {})

    def filler(self, columns: Columns, epoch: np.ndarray, sample_id: np.ndarray) -> Filler:
        """Crop and resize; nothing is drawn."""
        times = columns if self.times else {}
        return _CentreFiller(self.size, columns[schema.IMAGE], times, columns.get(schema.MASK))


@dataclass(frozen=True)
class _CentreFiller:
    size: int
    rows: np.ndarray
    times: Columns
    masks: np.ndarray | None = None

    def fill_mask(self, row: int, mask: np.ndarray) -> None:
        assert self.masks is not None
        side = min(mask.shape)
        top = (mask.shape[0] - side) // 2
        left = (mask.shape[1] - side) // 2
        square = mask[top : top + side, left : left + side]
        self.masks[row] = _nearest(square, self.size, self.size)

    def reduction(self, row: int, height: int, width: int) -> int:
        side = min(height, width)
        return reduction_for(side, side, self.size)

    def fill(self, row: int, picture: Picture) -> None:
        target = self.rows[row]
        if self.times and picture.shown is not None:
            self.times[schema.START_S][row], self.times[schema.END_S][row] = picture.shown
            self.times[schema.LASTS_S][row] = picture.lasts_s
        if picture.pixels.ndim == 4:  # of several clips, the first
            picture = replace(picture, pixels=picture.pixels[: len(target)])
            target = target[: len(picture.pixels)]
        centre_crop(picture, self.size, target)


@dataclass(frozen=True)
class Centres:
    """The largest centred square of each image at several sizes, from one decode: for encoders
    that were trained at different ones.

    A square of size S is in the column `schema.image_at(S)`.

    Attributes:
        sizes: Sides of the squares, px.
        times: Whether columns say when the frames of videos are on display.
    """

    sizes: tuple[int, ...]
    times: bool = False

    def empty(self, num_rows: int) -> Columns:
        """Allocate (B, 3, S, S) uint8 for each size, and the times (B,) float64."""
        columns = dict[str, np.ndarray]()
        for size in self.sizes:
            square = Centre(size, self.times).empty(num_rows)
            columns |= {schema.image_at(size): square.pop(schema.IMAGE)} | square
        return columns

    def filler(self, columns: Columns, epoch: np.ndarray, sample_id: np.ndarray) -> Filler:
        """Crop and resize; nothing is drawn."""
        times = columns if self.times else {}
        rows = [columns[schema.image_at(size)] for size in self.sizes]
        return _CentresFiller(
            [_CentreFiller(size, row, times) for size, row in zip(self.sizes, rows, strict=True)]
        )


@dataclass(frozen=True)
class _CentresFiller:
    fillers: list[_CentreFiller]

    def reduction(self, row: int, height: int, width: int) -> int:
        return min(filler.reduction(row, height, width) for filler in self.fillers)

    def fill(self, row: int, picture: Picture) -> None:
        for filler in self.fillers:
            filler.fill(row, picture)


@dataclass(frozen=True)
class Fitted:
    """The whole of each image, its longer side resized to the size, in the upper left corner: for
    boxes and masks, where no part may be cut off.

    The rest has one colour, and in masks `ignore`. Columns `height` and `width` say how large the
    file's image is; a box is resized by `size / max(height, width)`.

    Attributes:
        size: S, side of the result, px.
        masks: Whether a column has the class indices, by nearest neighbour.
        ignore: Class index of the rest.
        rest: Colour of the rest, RGB; `models.preprocess.neutral` where an artifact looks.
    """

    size: int
    masks: bool = False
    ignore: int = 255
    rest: tuple[int, int, int] = (0, 0, 0)

    def empty(self, num_rows: int) -> Columns:
        """Allocate (B, 3, S, S) uint8, height and width (B,) int32, and masks (B, S, S) uint8."""
        images = np.empty((num_rows, 3, self.size, self.size), np.uint8)
        images[:] = np.array(self.rest, np.uint8)[:, None, None]
        sides = {name: np.zeros(num_rows, np.int32) for name in (schema.HEIGHT, schema.WIDTH)}
        masks = (schema.MASK,) if self.masks else ()
        filled = {name: np.full_like(images[:, 0], self.ignore) for name in masks}
        return {schema.IMAGE: images} | sides | filled

    def filler(self, columns: Columns, epoch: np.ndarray, sample_id: np.ndarray) -> Filler:
        """Resize; nothing is drawn."""
        return _FittedFiller(self.size, columns)


@dataclass(frozen=True)
class _FittedFiller:
    size: int
    columns: Columns

    def reduction(self, row: int, height: int, width: int) -> int:
        side = max(height, width)
        return reduction_for(side, side, self.size)

    def fill(self, row: int, picture: Picture) -> None:
        height, width = fitted(picture.height, picture.width, self.size)
        resize_whole(picture.pixels, self.columns[schema.IMAGE][row][:, :height, :width])
        self.columns[schema.HEIGHT][row] = picture.height
        self.columns[schema.WIDTH][row] = picture.width

    def fill_mask(self, row: int, mask: np.ndarray) -> None:
        height, width = fitted(mask.shape[0], mask.shape[1], self.size)
        self.columns[schema.MASK][row][:height, :width] = _nearest(mask, height, width)


def _cut_nearest(values: np.ndarray, box: tuple[int, int, int, int, bool], size: int) -> np.ndarray:
    """Cut a box out of (H, W), resize it to a square by the nearest values and perhaps mirror
    it."""
    top, left, height, width, flip = box
    resized = _nearest(values[top : top + height, left : left + width], size, size)
    return resized[:, ::-1] if flip else resized


def _nearest(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize (H, W) by the nearest value to the middle of each pixel."""
    rows = (np.arange(height) * 2 + 1) * values.shape[0] // (2 * height)
    columns = (np.arange(width) * 2 + 1) * values.shape[1] // (2 * width)
    nearest: np.ndarray = values[rows[:, None], columns]
    return nearest


@dataclass(frozen=True)
class Clips:
    """The columns of an image shape for each frame of a clip: (..., T, 3, S, S); columns that are
    no images are those of the clip.

    Draws are keyed by the sample, so all frames of a clip get the same boxes and the same colours.
    """

    shape: Shape
    num_frames: int

    def empty(self, num_rows: int) -> Columns:
        """Allocate the columns of a block."""
        columns = self.shape.empty(num_rows)
        for name, column in columns.items():
            if _is_image(column):
                shape = (*column.shape[:-3], self.num_frames, *column.shape[-3:])
                columns[name] = np.empty(shape, np.uint8)
        return columns

    def filler(self, columns: Columns, epoch: np.ndarray, sample_id: np.ndarray) -> Filler:
        """Make a clip whole; a still image is a clip in which nothing moves, so it is made once."""
        return _ClipFiller(self.shape.filler(columns, epoch, sample_id), columns)


def of_media(shape: Shape, num_frames: int | None) -> Shape:
    """Make the shape of an image that of clips of so many frames; None leaves it."""
    return shape if num_frames is None else Clips(shape, num_frames)


@dataclass(frozen=True)
class _ClipFiller:
    frames: Filler
    columns: Columns

    def reduction(self, row: int, height: int, width: int) -> int:
        return self.frames.reduction(row, height, width)

    def fill(self, row: int, picture: Picture) -> None:
        if picture.pixels.ndim == 4:
            self.frames.fill(row, picture)
            return
        self.frames.fill(row, replace(picture, pixels=picture.pixels[None]))
        for column in filter(_is_image, self.columns.values()):
            column[row][..., 1:, :, :, :] = column[row][..., :1, :, :, :]


def _is_image(column: np.ndarray) -> bool:
    return column.ndim >= 4
