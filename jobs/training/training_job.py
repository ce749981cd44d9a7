"""What the driver hands to every training worker."""

from dataclasses import dataclass
from typing import Any

from jobs.training.run_config import PretrainConfig
from jobs.training.run_dir import RunDir
from pipelines.storage.lease import Fence
from pipelines.stream.ledger import Ledger


@dataclass(frozen=True)
class TrainingJob:
    """One start of a run, as its workers need to know it.

    Attributes:
        config: The run's configuration, its URIs absolute.
        num_steps: Optimiser steps of the whole run.
        num_rows: Rows ever stored in the manifest.
        epoch_samples: Samples of an epoch now.
        threads: Compute threads of a worker.
        photometric_done: Whether colours were changed before the stream reaches the workers.
        manifest: URI of the manifest; None: labels judge the weights, and no look is taken at them
            without.
        ledger: What is read of the samples, from which position on.
        monitor: The driver's `Monitor`, an actor.
        targets: Columns of a batch that labels or second images made.
        commit: Of the driver's code; None: it runs from no clone.
        fence: Of the driver's lease on the run directory; None: it holds none.
    """

    config: PretrainConfig
    num_steps: int
    num_rows: int
    epoch_samples: int
    threads: int
    photometric_done: bool
    manifest: str | None
    ledger: Ledger
    monitor: Any
    targets: tuple[str, ...] = ()
    commit: str | None = None
    fence: Fence | None = None

    @property
    def run(self) -> RunDir:
        """Return the run directory."""
        return RunDir(self.config.out, self.fence)
