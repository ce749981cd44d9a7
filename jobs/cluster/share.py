"""What a job takes of its cluster: how many workers, of what size, with or without GPUs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from augment.recipe import Placement
from jobs.cluster import available, waiting, worker_sizes
from jobs.cluster.available import Capacity, Resources
from jobs.cluster.cores import own_cores
from jobs.setup.failures import InputError
from jobs.setup.sections import ClusterConfig
from pipelines.ray_tasks import Placed
from pipelines.storage import uris
from pipelines.stream.colour_actors import ACTOR_CPUS, ActorPool

# Training workers beside a stream; actors that embed a stream; nothing but tasks.
Work = Literal["train", "embed", "tasks"]
DECODING: Resources = {"CPU": 1.0}


@dataclass(frozen=True)
class Session:
    """What a job may use of the cluster.

    Attributes:
        num_workers: Training processes, the most of them where their number may change.
        min_workers: The fewest.
        cpus_per_worker: Logical CPUs each of them holds.
        threads_per_worker: Compute threads each of them runs.
        use_gpu: A GPU for each of them.
        gpus_per_worker: The share of it that they hold.
        view_actors: The pool of view actors that fits beside training; None: the GPUs have no room
            for it.
    """

    num_workers: int
    min_workers: int
    cpus_per_worker: float
    threads_per_worker: int
    use_gpu: bool
    gpus_per_worker: float
    view_actors: ActorPool | None

    @property
    def scaling(self) -> Any:
        """Return the number of workers as Ray Train takes it: one number, or the least and the
        most."""
        return (
            self.num_workers
            if self.min_workers == self.num_workers
            else (self.min_workers, self.num_workers)
        )

    @property
    def placed(self) -> Placed:
        """Return where actors run that each take the place of a training process."""
        return Placed(self.use_gpu, self.threads_per_worker, self.cpus_per_worker)

    @property
    def least(self) -> list[Resources]:
        """Return what the fewest training processes hold."""
        gpus = {"GPU": self.gpus_per_worker} if self.use_gpu else {}
        return [{"CPU": self.cpus_per_worker, **gpus}] * self.min_workers


def share_of(
    cluster: ClusterConfig, *, work: Work, own: bool, paths: Sequence[str], placement: Placement
) -> Session:
    """Find what a job takes of the cluster, and wait until the cluster has it.

    Args:
        cluster: What the job wants.
        work: What it will run.
        own: Whether the cluster is a Ray that this process started, which nobody else uses.
        paths: Sources and results that every node must see.
        placement: Where colours change; a pool of actors must fit as well.

    Raises:
        InputError: the cluster can never hold it, or has several nodes for local paths.
    """
    found = available.capacity(own=own)
    _check_paths(cluster, paths, len(found.at_most))
    use_gpu = _uses_gpus(cluster, found)
    asked = _asked(cluster, work, placement, use_gpu=use_gpu, gpus=_gpus(found.at_most))
    if not found.unknown:
        _check_possible(cluster, found, work, asked, own=own, use_gpu=use_gpu, placement=placement)
    if not own:
        waiting.wait_for_room(asked)
        found = available.capacity(own=own)
    per_worker = worker_sizes.cpus_of_each(
        cluster, found, elastic=work == "train" and not use_gpu, own=own, use_gpu=use_gpu
    )
    cpus = available.total(found.free, "CPU")
    pool = worker_sizes.view_actors_beside(
        cluster,
        _gpus(found.totals),
        cpus - (cluster.min_workers * per_worker if work == "train" else 0),
        use_gpu=use_gpu and work == "train",
        placement=placement,
    )
    threads = max(1, own_cores() // cluster.max_workers) if own else max(1, int(per_worker))
    return Session(
        num_workers=cluster.max_workers,
        min_workers=cluster.min_workers,
        cpus_per_worker=per_worker,
        threads_per_worker=threads,
        use_gpu=use_gpu,
        gpus_per_worker=cluster.gpus_per_worker,
        view_actors=pool,
    )


def _gpus(nodes: Sequence[Resources]) -> float:
    return available.total(nodes, "GPU")


def _check_paths(cluster: ClusterConfig, paths: Sequence[str], num_nodes: int) -> None:
    for path in paths:
        if uris.is_local(path) and num_nodes > 1 and not cluster.shared_fs:
            raise InputError(
                f"{path} is a local path and the cluster has {num_nodes} nodes: use object"
                " storage, or set cluster.shared_fs=true where every node sees the same files"
            )


def _uses_gpus(cluster: ClusterConfig, found: Capacity) -> bool:
    """Choose by the GPUs that there are or may come.

    Raises:
        InputError: there can never be the GPUs that were asked for.
    """
    gpus = _gpus(found.at_most)
    if cluster.use_gpu == "auto":
        return gpus >= cluster.min_workers
    if cluster.use_gpu and gpus < cluster.min_workers and not found.unknown:
        raise InputError(
            f"cluster.use_gpu={cluster.use_gpu} with cluster.num_workers={cluster.num_workers}, but"
            f" the cluster has {gpus:g} GPUs: set cluster.use_gpu=auto or add GPU nodes"
        )
    return cluster.use_gpu


def _asked(
    cluster: ClusterConfig, work: Work, placement: Placement, *, use_gpu: bool, gpus: float
) -> list[Resources]:
    """Return the least that the job starts with, as bundles each of which lies on one node."""
    if work == "tasks":
        return [DECODING]
    worker = {"CPU": worker_sizes.least_cpus(cluster)}
    if use_gpu:
        worker["GPU"] = cluster.gpus_per_worker if work == "train" else 1.0
    number = cluster.min_workers if work == "train" else cluster.max_workers
    share = cluster.gpus_per_view_actor if gpus else 0.0
    actors = cluster.view_actors if placement == "actor" and work == "train" else 0
    actor = {"CPU": ACTOR_CPUS, **({"GPU": share} if share else {})}
    return [worker] * number + [DECODING] + [actor] * actors


def _check_possible(
    cluster: ClusterConfig,
    found: Capacity,
    work: Work,
    asked: Sequence[Resources],
    *,
    own: bool,
    use_gpu: bool,
    placement: Placement,
) -> None:
    """Refuse what would wait for ever, whatever ends or comes.

    Raises:
        InputError: the cluster can never hold the workers beside a CPU for decoding.
    """
    per_worker = worker_sizes.least_cpus(cluster)
    sizes = [node["CPU"] for node in found.at_most]
    workers = {"train": cluster.min_workers, "embed": cluster.max_workers, "tasks": 0}[work]
    left = sum(sizes) - workers * per_worker
    if left < DECODING["CPU"]:
        raise InputError(
            f"cluster.num_workers={cluster.num_workers} x cluster.cpus_per_worker={per_worker:g}"
            f" leave {left:g} of {sum(sizes):g} CPUs, and decoding needs at least 1: use fewer"
            " workers, fewer CPUs a worker, or a larger cluster"
        )
    trains = work == "train"
    if trains and cluster.min_workers < cluster.max_workers and not use_gpu:
        worker_sizes.leaving_a_cpu(sizes, cluster, own=own)
    elif not own:
        worker_sizes.check_room(sizes, workers, cluster)
    gpus = _gpus(found.at_most)
    worker_sizes.view_actors_beside(
        cluster, gpus, left, use_gpu=use_gpu and trains, placement=placement
    )
    if not own and not available.fits(asked, found.at_most):
        raise InputError(
            f"the cluster never has room for {waiting.described(asked)}: use fewer workers, fewer"
            " CPUs a worker, or larger nodes"
        )
