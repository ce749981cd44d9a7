"""What each training worker holds, and what of a cluster is left for view actors beside them."""

import math
from collections.abc import Sequence

from augment.recipe import Placement
from jobs.cluster.available import Capacity
from jobs.setup.failures import InputError
from jobs.setup.sections import ClusterConfig
from pipelines.stream.colour_actors import ACTOR_CPUS, ActorPool
from pipelines.stream.sealed import DECODE_CPUS, PLANNER_CPUS


def view_actors_beside(
    cluster: ClusterConfig, gpus: float, cpus: float, *, use_gpu: bool, placement: Placement
) -> ActorPool | None:
    """Find room for the pool of view actors beside the training processes, which Ray would wait for
    in silence.

    Args:
        cluster: What the job wants.
        gpus: GPUs of the cluster.
        cpus: Logical CPUs that training leaves.
        use_gpu: Whether the training processes take GPUs.
        placement: Where colours change; only `actor` insists on the pool.

    Raises:
        InputError: it insists, and there is no room.
    """
    share = cluster.gpus_per_view_actor if gpus else 0.0
    # No actor spans two GPUs. Training may grow to its most workers, and would take the GPUs of
    # actors that come later.
    whole = max(0, int(gpus) - (cluster.max_workers if use_gpu else 0))
    shared = int(gpus) - whole
    room = (
        whole * _times(1, share) + shared * _times(1 - cluster.gpus_per_worker, share)
        if share
        else math.inf
    )
    needed = cluster.view_actors * ACTOR_CPUS
    if cluster.view_actors <= room and needed + DECODE_CPUS + PLANNER_CPUS <= cpus:
        return ActorPool(cluster.view_actors, share)
    if placement != "actor":
        return None
    if cluster.view_actors > room:
        raise InputError(
            f"cluster.view_actors={cluster.view_actors} x cluster.gpus_per_view_actor={share:g} do"
            f" not fit: training holds {cluster.gpus_per_worker:g} of {shared} of {gpus:g} GPUs"
            f" each, which leaves room for {room:g}: use fewer workers, a smaller share of a GPU"
            " for each actor or worker, or views.placement=worker"
        )
    raise InputError(
        f"cluster.view_actors={cluster.view_actors} hold {needed:g} of the {cpus:g} CPUs that"
        f" training leaves, and decoding needs {DECODE_CPUS + PLANNER_CPUS:g}: use fewer actors or"
        " a larger cluster"
    )


def _times(whole: float, part: float) -> int:
    """Return how often a share of a GPU is contained in another, in ten thousandths as Ray
    counts."""
    return round(whole * 10_000) // max(1, round(part * 10_000))


def least_cpus(cluster: ClusterConfig) -> float:
    """Return the fewest CPUs that a worker may hold."""
    return 1.0 if cluster.cpus_per_worker == "auto" else float(cluster.cpus_per_worker)


def cpus_of_each(
    cluster: ClusterConfig, found: Capacity, *, elastic: bool, own: bool, use_gpu: bool
) -> float:
    """Return the CPUs of a worker, fitted to what is free of each node.

    Args:
        cluster: What the job wants.
        found: What the cluster has now.
        elastic: Whether the number of workers may change in the run.
        own: Whether the cluster is a Ray of this process, on one machine.
        use_gpu: Whether each worker has a GPU; then few CPUs feed it.
    """
    sizes = [node["CPU"] for node in found.free]
    if use_gpu:
        return least_cpus(cluster)
    if not elastic or cluster.min_workers == cluster.max_workers:
        return least_cpus(cluster) if own else fitting(sizes, cluster)
    try:
        return leaving_a_cpu(sizes, cluster, own=own)
    except InputError:  # too little is free now; what others hold comes back
        return leaving_a_cpu([node["CPU"] for node in found.totals], cluster, own=own)


def wanted_cpus(sizes: Sequence[float], cluster: ClusterConfig) -> float:
    """Return what a worker takes by itself: without GPUs, training computes on half of all CPUs."""
    return max(1.0, sum(sizes) // (2 * cluster.max_workers))


def fitting(sizes: Sequence[float], cluster: ClusterConfig) -> float:
    """Return the CPUs of a worker so that all of them find room on the nodes.

    By itself a worker takes no more than leaves every node a whole CPU to decode with, where that
    is possible, and else one.

    Args:
        sizes: CPUs of each node.
        cluster: What the job wants.
    """
    if cluster.cpus_per_worker != "auto":
        return float(cluster.cpus_per_worker)
    for each in range(int(wanted_cpus(sizes, cluster)), 1, -1):
        if sum(int(max(0.0, size - 1) // each) for size in sizes) >= cluster.max_workers:
            return float(each)
    return 1.0


def check_room(sizes: Sequence[float], num_workers: int, cluster: ClusterConfig) -> None:
    """Refuse workers that would never find room.

    Raises:
        InputError: no node or too few are large enough.
    """
    each = least_cpus(cluster)
    room = sum(int(size // each) for size in sizes)
    if room < num_workers:
        raise InputError(
            f"cluster.num_workers={cluster.num_workers} x cluster.cpus_per_worker={each:g} find"
            f" room for {room} on nodes of {', '.join(f'{size:g}' for size in sizes)} CPUs: use"
            " fewer workers, fewer CPUs a worker, or larger nodes"
        )


def leaving_a_cpu(sizes: Sequence[float], cluster: ClusterConfig, *, own: bool = False) -> float:
    """Return the CPUs of a worker so that every node on which some start keeps a whole one.

    Ray Train starts as many workers as fit, and of the rest of a node Ray Data is given the whole
    CPUs: of less than one, nothing, and then nothing is decoded. So a worker asks for more where
    one more of them would just fit. A node that is smaller than a worker is left to decoding.

    Raises:
        InputError: a worker leaves no whole CPU of any node.
    """
    largest = max(sizes, default=0.0)
    each = least_cpus(cluster)
    if cluster.cpus_per_worker == "auto" and not own:
        each = max(1.0, min(wanted_cpus(sizes, cluster), largest - 1))

    def started(size: float) -> int:
        return min(cluster.max_workers, int(size // each))

    def is_crowded(size: float) -> bool:
        return started(size) > 0 and size - started(size) * each < 1

    while crowded := next(filter(is_crowded, sizes), None):
        each = math.floor(crowded / started(crowded) * 1e4 + 1) / 1e4  # what Ray counts CPUs in
    if each > largest:
        raise InputError(
            f"cluster.num_workers={cluster.num_workers} x"
            f" cluster.cpus_per_worker={cluster.cpus_per_worker} may take all {largest:g} CPUs of a"
            " node, and decoding needs at least 1: use nodes of 3 CPUs or more, fewer CPUs a"
            " worker, or a fixed number of workers"
        )
    return each
