"""Shapes: what becomes of decoded images and clips in a block of the stream."""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from augment.execution.geometry import centre_crop, reduction_for
from augment.generator import Cutter, ViewGenerator
from augment.picture import Picture
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


class Shape(Protocol):
    """Turns decoded images into the fixed-shape columns of a block."""

    def empty(self, num_rows: int) -> Columns:
        """Allocate the columns of a block, whatever they hold."""

    def filler(self, columns: Columns, epoch: np.ndarray, sample_id: np.ndarray) -> Filler:
        """Prepare to fill the columns of `empty`."""


@dataclass(frozen=True)
class Crops:
    """The crops of every view, drawn by the key of each sample; with `photometric`, coloured here
    as well."""

    generator: ViewGenerator
    photometric: bool

    def empty(self, num_rows: int) -> Columns:
        """Allocate (B, V, 3, S, S) uint8 a group."""
        views = self.generator.views
        sizes = {
            name: (group.count, 3, views.group_size(name), views.group_size(name))
            for name, group in views.groups.items()
        }
        return {name: np.empty((num_rows, *shape), np.uint8) for name, shape in sizes.items()}

    def filler(self, columns: Columns, epoch: np.ndarray, sample_id: np.ndarray) -> Filler:
        """Draw every view; a row's are cut from one decode."""
        views = self.generator.views
        seed = self.generator.seed
        keys = (torch.tensor(epoch), torch.tensor(sample_id))
        return Cutter(views, seed, columns, *keys, photometric=self.photometric)


@dataclass(frozen=True)
class Centre:
    """The largest centred square of each image, for embedding.

    Attributes:
        size: S, its side.
        times: Whether columns say when the frames of videos are on display.
    """

    size: int
    times: bool = False

    def empty(self, num_rows: int) -> Columns:
        """Allocate (B, 3, S, S) uint8, and the times (B,) float64."""
        times = (schema.START_S, schema.END_S) if self.times else ()
        images = np.empty((num_rows, 3, self.size, self.size), np.uint8)
        return {schema.IMAGE: images} | {name: np.full(num_rows, np.nan) for name in times}

    def filler(self, columns: Columns, epoch: np.ndarray, sample_id: np.ndarray) -> Filler:
        """Crop and resize; nothing is drawn."""
        return _CentreFiller(self.size, columns[schema.IMAGE], columns if self.times else {})


@dataclass(frozen=True)
class _CentreFiller:
    size: int
    rows: np.ndarray
    times: Columns

    def reduction(self, row: int, height: int, width: int) -> int:
        side = min(height, width)
        return reduction_for(side, side, self.size)

    def fill(self, row: int, picture: Picture) -> None:
        target = self.rows[row]
        if self.times and picture.shown is not None:
            self.times[schema.START_S][row], self.times[schema.END_S][row] = picture.shown
        centre_crop(
            picture,
            self.size,
            target if picture.pixels.ndim == 3 else target[: len(picture.pixels)],
        )


@dataclass(frozen=True)
class Clips:
    """The columns of an image shape for each frame of a clip: (..., T, 3, S, S).

    Draws are keyed by the sample, so all frames of a clip get the same boxes and the same colours.
    """

    shape: Shape
    num_frames: int

    def empty(self, num_rows: int) -> Columns:
        """Allocate the columns of a block."""
        return {
            name: np.empty((*column.shape[:-3], self.num_frames, *column.shape[-3:]), np.uint8)
            for name, column in self.shape.empty(num_rows).items()
        }

    def filler(self, columns: Columns, epoch: np.ndarray, sample_id: np.ndarray) -> Filler:
        """Make a clip whole; a still image is a clip in which nothing moves, so it is made once."""
        return _ClipFiller(self.shape.filler(columns, epoch, sample_id), columns)


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
        for column in self.columns.values():
            column[row][..., 1:, :, :, :] = column[row][..., :1, :, :, :]
