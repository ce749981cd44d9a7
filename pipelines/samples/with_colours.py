"""The palette of each image or clip beside its pixels: what any encoder must beat, from the same
decode."""

from dataclasses import dataclass

import numpy as np
import torch

from augment.picture import Picture
from models.probes import colour_statistics
from pipelines import schema
from pipelines.stream.shapes import Columns, Filler, Shape

COLOURS = "colours"
_SIZE = 30  # of `colour_statistics`


@dataclass(frozen=True)
class WithColours:
    """The columns of a shape with `image`, and the statistics of its colours, (B, 30) float32, of
    a clip their mean over its frames.

    Attributes:
        shape: Of images or clips.
    """

    shape: Shape

    def empty(self, num_rows: int) -> Columns:
        """Allocate the shape's columns and that of colours."""
        return self.shape.empty(num_rows) | {COLOURS: np.zeros((num_rows, _SIZE), np.float32)}

    def filler(self, columns: Columns, epoch: np.ndarray, sample_id: np.ndarray) -> Filler:
        """Fill the shape's columns as it does, and look at its image."""
        others = {name: column for name, column in columns.items() if name != COLOURS}
        filler = self.shape.filler(others, epoch, sample_id)
        return _ColourFiller(filler, columns[schema.IMAGE], columns[COLOURS])


@dataclass(frozen=True)
class _ColourFiller:
    pixels: Filler
    images: np.ndarray
    colours: np.ndarray

    def reduction(self, row: int, height: int, width: int) -> int:
        return self.pixels.reduction(row, height, width)

    def fill(self, row: int, picture: Picture) -> None:
        self.pixels.fill(row, picture)
        frames = self.images[row].reshape(-1, *self.images.shape[-3:])  # (T, 3, S, S)
        self.colours[row] = colour_statistics(torch.from_numpy(frames)).mean(0).numpy()
