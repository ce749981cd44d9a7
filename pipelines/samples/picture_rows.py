"""Fills rows of a block from pictures, and from what belongs to each: its mask, boxes and second
image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import numpy as np
import pyarrow as pa

from augment.picture import Picture
from pipelines import schema
from pipelines.media.contract import BadSample, Clip, Reduce
from pipelines.media.decoder import Decoder
from pipelines.pairs.second_images import SecondImages
from pipelines.stream.payload import Payload
from pipelines.stream.shapes import BoxFiller, Filler, MaskFiller, PairFiller
from pipelines.stream.stage_times import Stopwatch


@dataclass(frozen=True)
class Boxes:
    """The boxes of a block's rows (B, M, 5), and the size of the images that they are of, NaN where
    it is not known (B, 2)."""

    boxes: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, rows: pa.Table) -> "Boxes":
        sides = [rows[name].to_numpy() for name in (schema.HEIGHT, schema.WIDTH)]
        boxes = numbers_of(rows[schema.BOXES]).reshape(rows.num_rows, -1, 5)
        return cls(boxes, np.stack(sides, axis=1).astype(np.float64))

    def fill(self, filler: BoxFiller, index: int, picture: Picture) -> None:
        """Fill a row from its picture."""
        filler.fill_boxes(index, self.boxes[index], picture.height, picture.width)

    def check(self, index: int, picture: Picture) -> None:
        """Compare a picture with the size that its boxes count in.

        Raises:
            BadSample: the boxes are of an image of another size.
        """
        known = self.sizes[index]
        if np.isfinite(known).all() and tuple(known) != (picture.height, picture.width):
            raise BadSample(
                "boxes",
                f"its boxes are of an image of {known[1]:.0f} x {known[0]:.0f}, and it has"
                f" {picture.width} x {picture.height}",
            )


def numbers_of(column: pa.ChunkedArray) -> np.ndarray:
    """Return a column of numbers (B,), or of as many in each row (B, n)."""
    values = column.combine_chunks()
    if not pa.types.is_fixed_size_list(values.type):
        return np.asarray(values)
    return np.asarray(values.flatten()).reshape(len(values), values.type.list_size)


@dataclass(frozen=True)
class PictureRows:
    """Decodes images and clips into the rows of a block.

    Attributes:
        filler: Of the block.
        decoder: What decodes.
        clock: Takes the time.
        classes: Class of each value of masks, (256,) uint8; None: the values are the classes.
        boxes: Of the block's rows; they are drawn where the block has a column for them.
        pair: What is made of second images; None: there are none.
        as_image: Whether a clip is one frame, and that an image.
        fills_boxes: Whether the block has a column of boxes.
    """

    filler: Filler
    decoder: Decoder
    clock: Stopwatch
    classes: np.ndarray | None = None
    boxes: Boxes | None = None
    pair: SecondImages | None = None
    as_image: bool = False
    fills_boxes: bool = False

    def fill(
        self,
        index: int,
        payload: Payload,
        clip: Clip | None,
        mask: Payload | None = None,
        other: Payload | None = None,
    ) -> None:
        """Fill a row.

        Args:
            index: Of the row.
            payload: The file of its image or video.
            clip: Which frames of a video; None: it is an image.
            mask: The file of its mask, where there are masks.
            other: The file of its second image, where there are some.

        Raises:
            BadSample: one of them cannot be used.
        """
        with self.clock.time("decode"):
            reduce = partial(self.filler.reduction, index)
            picture = _decoded(payload, clip, self.decoder, reduce, as_image=self.as_image)
            values = None if mask is None else _mask(mask, picture, self.decoder)
            second = None
            if self.pair and other is not None:
                second = self.pair.decode(other, picture, self.decoder)
        with self.clock.time("crop"):
            self.filler.fill(index, picture)
            if values is not None:
                told = values if self.classes is None else self.classes[values]
                cast(MaskFiller, self.filler).fill_mask(index, told)
            if second is not None:
                cast(PairFiller, self.filler).fill_pair(index, second)
            if self.boxes is not None:
                self.boxes.check(index, picture)
                if self.fills_boxes:
                    self.boxes.fill(cast(BoxFiller, self.filler), index, picture)


def classes_of(values: Sequence[int]) -> np.ndarray | None:
    """Return the class of each value of masks, (256,) uint8, 255 of one that is none; None where
    the values are the classes.

    Args:
        values: The value of each class, at most 255 of them; empty: the values are the classes.
    """
    if not values:
        return None
    classes = np.full(256, 255, np.uint8)
    classes[list(values)] = np.arange(len(values))
    return classes


def _mask(payload: Payload, picture: Picture, decoder: Decoder) -> np.ndarray:
    """Decode the mask of a picture.

    Raises:
        BadSample: it cannot be used, or is not of the picture's size.
    """
    if isinstance(payload, BadSample):
        raise BadSample("mask", f"its mask: {payload}")
    assert isinstance(payload, bytes)
    try:
        values = decoder.indices(payload)
    except BadSample as problem:
        raise BadSample("mask", f"its mask: {problem.message}") from None
    if values.shape != (picture.height, picture.width):
        sizes = f"{values.shape[1]} x {values.shape[0]}, its image {picture.width} x"
        raise BadSample("mask", f"its mask is {sizes} {picture.height}")
    return values


def _decoded(
    payload: Payload, clip: Clip | None, decoder: Decoder, reduce: Reduce, *, as_image: bool
) -> Picture:
    """Decode one sample to an image or a clip."""
    if isinstance(payload, BadSample):
        raise payload
    if clip is None:
        assert isinstance(payload, bytes)  # only videos are read by parts
        return decoder.image(payload, reduce)
    frames = decoder.clip(payload, clip)
    return replace(frames, pixels=frames.pixels[0]) if as_image else frames
