"""Windows of sounds: where they lie is drawn by the sample's key."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from augment.column_draws import uniform
from augment.sound.sound_recipe import SoundViews
from pipelines import schema
from pipelines.media.contract import Windows
from pipelines.media.decoder import Decoder, File
from pipelines.samples.rows_of_numbers import NumberRows


@dataclass(frozen=True)
class SoundWindows:
    """How windows are taken out of sounds.

    Attributes:
        rate: Samples a second, Hz.
        size: L, the length of each window, samples.
        count: V, windows of a sample, each at a place of its own.
        seed: The run's; None: the middle of the sound.
    """

    rate: int
    size: int
    count: int = 1
    seed: int | None = None

    @classmethod
    def of_views(cls, views: SoundViews, seed: int) -> "SoundWindows":
        """Return what the views of a run are cut from."""
        return cls(views.rate, views.size, views.num_views, seed)

    def wanted(self, rows: pa.Table) -> list[Windows]:
        """Draw where the windows of each sample lie."""
        positions = np.full((rows.num_rows, self.count), 0.5)
        if self.seed is not None:
            epoch, sample_id = (rows[name].to_numpy() for name in (schema.EPOCH, schema.SAMPLE_ID))
            drawn = uniform(
                self.count, seed=self.seed, epoch=epoch, sample_id=sample_id, view=0, op="window"
            )
            positions = drawn.astype(np.float64)
        return [Windows(self.rate, self.size, tuple(row)) for row in positions.tolist()]

    def read(self, payload: bytes | File, wanted: Windows, decoder: Decoder) -> np.ndarray:
        """Decode the windows of a sample, (V, L) int16.

        Raises:
            BadSample: it cannot be used, or is silent there.
        """
        return decoder.sound(payload, wanted)


def shape_of_views(views: SoundViews) -> NumberRows:
    """Return what the windows of a run are in a block: (B, V, L) int16 a group."""
    counts = {name: group.count for name, group in views.groups.items()}
    return NumberRows(counts, views.size, "int16")


def shape_for_embedding(size: int, *, times: bool) -> NumberRows:
    """Return what an encoder's windows are in a block: (B, L) int16."""
    return NumberRows({schema.IMAGE: 1}, size, "int16", single=True, times=times)
