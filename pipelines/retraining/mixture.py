"""Chooses what a retraining learns from: all that is new, and some of what the encoder knows."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines import schema
from pipelines.corpus.changes import PART
from pipelines.corpus.curated_version import write_selection
from pipelines.corpus.manifest import Manifest
from pipelines.retraining.drawn_rows import drawn

HELD_OUT = "held out"


@dataclass(frozen=True)
class Ages:
    """Which samples of a corpus the encoder has been trained on.

    Attributes:
        manifest: The corpus.
        old_parts: Numbers of the parts that the version it was trained on had; of every other part
            all samples are new to it.
    """

    manifest: Manifest
    old_parts: frozenset[int]

    @classmethod
    def since(cls, manifest: Manifest, before: Manifest | None) -> "Ages":
        """Tell old from new by the version that was trained on; None: all are new."""
        known = {part.path for part in before.parts} if before else set[str]()
        old = [index for index, part in enumerate(manifest.parts) if part.path in known]
        return cls(manifest, frozenset(old))

    @property
    def new_parts(self) -> frozenset[int]:
        """Return the numbers of the other parts."""
        return frozenset(range(len(self.manifest.parts))) - self.old_parts

    @property
    def num_old(self) -> int:
        """Return how many samples are old."""
        return self.manifest.num_rows - self.num_new

    @property
    def num_new(self) -> int:
        """Return how many samples are new."""
        return sum(sum(self.manifest.parts[part].row_groups) for part in self.new_parts)


@dataclass(frozen=True)
class Mixture:
    """What of a corpus is trained on.

    Attributes:
        ages: The corpus.
        replay_share: Of what is trained on, the share of old samples; None: all of them.
        withheld: Of the old and of the new samples, the highest number of `drawn` that is held out
            and not trained on; those with lower ones are as well.
        slot: Of the cycle: each draws other old samples.
    """

    ages: Ages
    replay_share: float | None
    withheld: tuple[float, float]
    slot: str

    @property
    def replayed(self) -> float:
        """Return the share of the old samples that are taken."""
        old = self.ages.num_old
        if self.replay_share is None or self.replay_share == 1 or not old:
            return 1.0
        wanted = self.ages.num_new * self.replay_share / (1 - self.replay_share)
        return min(1.0, wanted / old)

    def chooses(self, table: pa.Table) -> np.ndarray:
        """Tell of rows of `Manifest.places` which are trained on, (n,) bool."""
        ids = table[schema.SAMPLE_ID].to_numpy()
        is_old = np.isin(table[PART].to_numpy(), list(self.ages.old_parts))
        taken = drawn(ids, HELD_OUT) > np.where(is_old, *self.withheld)
        taken &= ~is_old | (drawn(ids, f"replay {self.slot}") < self.replayed)
        return taken

    def write(self, out: str, record: dict[str, Any]) -> Manifest:
        """Write what is chosen as a manifest of its own."""
        return write_selection(self.ages.manifest, out, self.chooses, record)
