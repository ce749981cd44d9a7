"""What Ray Train asks for its data: one ordered stream for each worker group, from the committed step to the last."""

from typing import Any

from ray.data import DataIterator, Dataset
from ray.train import DataConfig

from augment.generator import ViewGenerator
from jobs.config import PretrainConfig
from jobs.run_dir import CHECKPOINTS, RunDir, committed_checkpoint, step_of
from pipelines import ingest
from pipelines.manifest import Manifest
from pipelines.plan import Plan


class PlannedData(DataConfig):
    """Builds the stream of each worker group: from the committed step to the last, for its number of workers."""

    def __init__(self, config: PretrainConfig, manifest: Manifest, run: RunDir, num_steps: int) -> None:
        super().__init__()
        self._config, self._manifest, self._run, self._num_steps = config, manifest, run, num_steps

    def configure(
        self, datasets: dict[str, Dataset], world_size: int, *_: Any, **__: Any
    ) -> list[dict[str, DataIterator]]:
        """Split one ordered stream: block i goes to rank i mod `world_size`."""
        config = self._config
        name = committed_checkpoint(self._run.path(CHECKPOINTS))
        start = (step_of(name) if name else 0) * config.global_batch_size
        stop = self._num_steps * config.global_batch_size
        block_rows = config.global_batch_size // (world_size * config.accumulate)
        work = ingest.Ingest(
            order=Plan(self._manifest, config.seed),
            shape=ingest.Crops(ViewGenerator(config.views, config.seed), photometric=photometric_done(config)),
            block_rows=block_rows,
            max_pixels=config.source.max_pixels,
            quarantine=self._run.path("quarantine"),
            run=config.fingerprint(),
        )
        stream = ingest.dataset(work, ingest.training_items(start, stop, block_rows=block_rows))
        return [{"train": shard} for shard in stream.streaming_split(world_size, equal=True)]


def photometric_done(config: PretrainConfig) -> bool:
    """Tell whether colours change in the decode task; `auto` leaves them to the training workers."""
    return config.views.placement == "decode"
