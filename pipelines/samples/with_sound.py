"""The soundtrack of a video beside the views of its frames: a column of one shape."""

from dataclasses import dataclass

import numpy as np

from augment.picture import Picture
from pipelines import schema
from pipelines.media.contract import BadSample
from pipelines.media.sounds.soundtrack import Soundtrack
from pipelines.stream.shapes import Columns, Filler, Shape


@dataclass(frozen=True)
class WithSound:
    """The columns of a shape, and stretches of sound (B, V, L) int16, one channel.

    Attributes:
        shape: Of images or clips.
        soundtrack: What is taken of the sound.
    """

    shape: Shape
    soundtrack: Soundtrack

    def empty(self, num_rows: int) -> Columns:
        """Allocate the shape's columns and that of the sound."""
        size = (num_rows, self.soundtrack.count, self.soundtrack.size)
        return self.shape.empty(num_rows) | {schema.SOUND: np.zeros(size, np.int16)}

    def filler(self, columns: Columns, epoch: np.ndarray, sample_id: np.ndarray) -> Filler:
        """Fill the shape's columns as it does, and copy the sound."""
        others = {name: column for name, column in columns.items() if name != schema.SOUND}
        filler = self.shape.filler(others, epoch, sample_id)
        return _SoundFiller(filler, columns[schema.SOUND])


@dataclass(frozen=True)
class _SoundFiller:
    views: Filler
    sound: np.ndarray

    def reduction(self, row: int, height: int, width: int) -> int:
        return self.views.reduction(row, height, width)

    def fill(self, row: int, picture: Picture) -> None:
        if picture.sound is None:
            raise BadSample("no_audio", "an image, which has no sound")
        self.sound[row] = picture.sound
        self.views.fill(row, picture)


def with_sound(shape: Shape, soundtrack: Soundtrack | None) -> Shape:
    """Add the sound that is asked for to a shape."""
    return shape if soundtrack is None else WithSound(shape, soundtrack)
