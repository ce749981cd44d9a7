"""What of a video's sound goes with each of its clips, drawn by key."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from augment.column_draws import uniform
from pipelines import schema
from pipelines.media.contract import Track


@dataclass(frozen=True)
class Soundtrack:
    """How stretches of sound are taken beside clips.

    Attributes:
        rate: Samples a second, to which every sound is resampled, Hz.
        size: L, the length of a stretch, samples.
        gap_s: How far from the clip's own a second stretch is, at least and at most, seconds; None:
            there is no second.
    """

    rate: int
    size: int
    gap_s: tuple[float, float] | None = None

    @property
    def count(self) -> int:
        """Return V, the stretches of a clip."""
        return 1 if self.gap_s is None else 2

    def tracks(self, rows: pa.Table, seed: int | None) -> list[Track]:
        """Draw where the second stretch of each sample lies.

        Args:
            rows: Manifest rows with `epoch`.
            seed: The run's; None: amid the places it can take.
        """
        if self.gap_s is None:
            return [Track(self.rate, self.size)] * rows.num_rows
        drawn = np.full(rows.num_rows, 0.5)
        if seed is not None:
            epoch, sample_id = (rows[name].to_numpy() for name in (schema.EPOCH, schema.SAMPLE_ID))
            keys = {"epoch": epoch, "sample_id": sample_id}
            drawn = uniform(1, seed=seed, view=0, op="soundtrack", **keys)[:, 0]
        return [Track(self.rate, self.size, float(each), self.gap_s) for each in drawn]
