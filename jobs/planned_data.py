"""What Ray Train asks for its data: one ordered stream for each worker group, from the committed step to the last."""

from typing import Any

from ray.data import DataIterator, Dataset
from ray.train import DataConfig

from augment.generator import ViewGenerator
from jobs.config import PretrainConfig
from jobs.run_dir import RunDir
from pipelines import ingest
from pipelines.plan import Plan


class PlannedData(DataConfig):
    """Builds the stream of each worker group: what the committed weights have not seen, for its number of workers.

    Ray Train calls it once a worker group is up, when the committed checkpoint can no longer change.
    """

    def __init__(
        self, config: PretrainConfig, plan: Plan, run: RunDir, num_steps: int, *, photometric_done: bool
    ) -> None:
        super().__init__()
        self._config, self._plan, self._run, self._num_steps = config, plan, run, num_steps
        self._photometric_done = photometric_done

    def configure(
        self, datasets: dict[str, Dataset], world_size: int, *_: Any, **__: Any
    ) -> list[dict[str, DataIterator]]:
        """Split one ordered stream: block i goes to rank i mod `world_size`."""
        config = self._config
        work = ingest.Ingest(
            order=self._plan,
            shape=ingest.Crops(ViewGenerator(config.views, config.seed), photometric=self._photometric_done),
            block_rows=config.global_batch_size // (world_size * config.accumulate),
            limits=config.source.limits(),
            quarantine=self._run.path("quarantine"),
            run=config.fingerprint(),
            sampling=config.clip.sampling(self._plan.manifest, config.seed),
            verify=config.source.verify == "etag",
        )
        stop = self._num_steps * config.global_batch_size
        stream = ingest.dataset(work, work.items(self._run.ledger().position, stop))
        return [{"train": shard} for shard in stream.streaming_split(world_size, equal=True)]


def photometric_done(config: PretrainConfig, *, use_gpu: bool) -> bool:
    """Tell whether colours change in the decode task; `auto`: where training has no GPU to change them on.

    Decode tasks are spread over every CPU of the cluster, a worker's CPUs are few and busy with the encoder.
    """
    placement = config.views.placement
    return placement == "decode" or (placement == "auto" and not use_gpu)
