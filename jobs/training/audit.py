"""The audit of a run: which samples each optimiser step saw, for those who want to count them."""

import numpy as np
import pyarrow as pa
from torch import Tensor

from jobs.training.run_dir import RunDir
from pipelines import schema
from pipelines.storage.parquet_files import write_table

STEPS_PER_PART = 100
SCHEMA = pa.schema(
    [
        pa.field(schema.EPOCH, pa.int64()),
        pa.field("step", pa.int64()),
        pa.field("attempt", pa.int64()),
        pa.field("rank", pa.int64()),
        pa.field(schema.SAMPLE_ID, pa.int64()),
    ]
)


class SampleAudit:
    """Writes `samples/<attempt>-<rank>-<step>.parquet`: the samples of this rank's steps up to that
    one.

    A step that was done again after a restart is there once more, with a higher attempt: of the
    weights' own history it counts the highest. Bad samples are left out, as the quarantine has
    them.

    Args:
        run: The run directory.
        attempt: Number of this start of the workers.
        rank: This worker's.
        enabled: False: nothing is kept or written.
    """

    def __init__(self, run: RunDir, attempt: int, rank: int, *, enabled: bool) -> None:
        self._run = run
        self._attempt = attempt
        self._rank = rank
        self._enabled = enabled
        self._batches: list[tuple[int, np.ndarray, np.ndarray]] = []  # step, epochs, sample ids

    def saw(self, step: int, columns: dict[str, Tensor]) -> None:
        """Take note of a micro-batch of optimiser step `step`, counted from 1."""
        if self._enabled:
            valid = columns[schema.VALID]
            epoch, sample_id = (
                columns[name][valid].cpu().numpy() for name in (schema.EPOCH, schema.SAMPLE_ID)
            )
            self._batches.append((step, epoch, sample_id))
            if step % STEPS_PER_PART == 0:
                self.flush()

    def flush(self) -> None:
        """Write what has been noted since the last part; before a checkpoint, which must not know
        more."""
        if not self._batches:
            return
        last = self._batches[-1][0]
        sizes = [len(epoch) for _, epoch, _ in self._batches]
        columns = [
            np.concatenate([epoch for _, epoch, _ in self._batches]),
            np.repeat([step for step, _, _ in self._batches], sizes),
            np.full(sum(sizes), self._attempt),
            np.full(sum(sizes), self._rank),
            np.concatenate([sample_id for _, _, sample_id in self._batches]),
        ]
        table = pa.Table.from_arrays(
            [pa.array(column, pa.int64()) for column in columns], schema=SCHEMA
        )
        self._run.check_held()
        name = f"{self._attempt}-{self._rank}-{last}.parquet"
        write_table(self._run.path("samples", name), table)
        self._batches = []
