"""What Ray Train asks for its data: one ordered stream for each worker group, from the committed
step to the last."""

from typing import Any

from ray.data import DataIterator, Dataset
from ray.train import DataConfig

from augment.generator import ViewGenerator
from augment.recipe import Placement
from jobs.cluster.share import Session
from jobs.training.run_config import PretrainConfig
from jobs.training.run_dir import RunDir
from models.registry import METHODS
from pipelines.stream import colour_actors, ingest, shapes
from pipelines.stream.colour_actors import ActorPool
from pipelines.stream.plan import Plan


class PlannedData(DataConfig):
    """Builds the stream of each worker group: what the committed weights have not seen, for its
    number of workers.

    Ray Train calls it once a worker group is up, when the committed checkpoint can no longer
    change.
    """

    def __init__(
        self,
        config: PretrainConfig,
        plan: Plan,
        run: RunDir,
        num_steps: int,
        *,
        placement: Placement,
        view_actors: ActorPool | None,
    ) -> None:
        super().__init__()
        self._config = config
        self._plan = plan
        self._run = run
        self._num_steps = num_steps
        self._placement = placement
        self._view_actors = view_actors

    def configure(
        self, datasets: dict[str, Dataset], world_size: int, *_: Any, **__: Any
    ) -> list[dict[str, DataIterator]]:
        """Split one ordered stream: block i goes to rank i mod `world_size`."""
        config = self._config
        generator = ViewGenerator(config.views, config.seed)
        work = ingest.Ingest(
            order=self._plan,
            shape=shape_of(config, generator, photometric=self._placement == "decode"),
            block_rows=config.global_batch_size // (world_size * config.accumulate),
            limits=config.source.limits(),
            quarantine=self._run.path("quarantine"),
            run=config.fingerprint(),
            sampling=config.clip.sampling(self._plan.manifest, config.seed),
            verify=config.source.verify == "etag",
        )
        stop = self._num_steps * config.global_batch_size
        stream = ingest.dataset(work, [(self._run.ledger().position, stop)])
        if self._placement == "actor":
            assert self._view_actors is not None
            stream = colour_actors.change_colours(
                stream, generator, self._view_actors, work.block_rows
            )
        return [{"train": shard} for shard in stream.streaming_split(world_size, equal=True)]


def shape_of(
    config: PretrainConfig, generator: ViewGenerator, *, photometric: bool
) -> shapes.Shape:
    """Say what a decode task makes of a sample: views of an image, or of each frame of a clip."""
    crops = shapes.Crops(generator, photometric=photometric)
    if METHODS[config.method.name].media != "clip":
        return crops
    return shapes.Clips(crops, config.clip.num_frames)


def resolve(placement: Placement, session: Session) -> Placement:
    """Say where colours change; `auto` goes by what the preflight found."""
    if placement != "auto":
        return placement
    if not session.use_gpu:
        # those tasks are spread over every CPU, a worker's CPUs are few and busy with the encoder
        return "decode"
    # A GPU that nobody uses costs training nothing; one that is shared would, and so must be asked
    # for.
    spare = (
        session.view_actors is not None
        and session.view_actors.gpus > 0
        and session.gpus_per_worker == 1
    )
    return "actor" if spare else "worker"
