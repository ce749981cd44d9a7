"""What each training worker holds, and what of a cluster is left for view actors beside them."""

import math
from typing import Any

from augment.recipe import Placement
from jobs.setup.command_line import InputError
from jobs.setup.sections import ClusterConfig
from pipelines.stream.colour_actors import ACTOR_CPUS, ActorPool
from pipelines.stream.ingest import DECODE_CPUS, PLANNER_CPUS


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


def cpus_per_worker(cluster: ClusterConfig, cpus: float, *, own: bool, use_gpu: bool) -> float:
    """Return a worker's CPUs: without GPUs training computes on half of all CPUs."""
    if cluster.cpus_per_worker != "auto":
        return float(cluster.cpus_per_worker)
    return 1.0 if own or use_gpu else max(1.0, cpus // (2 * cluster.max_workers))


def smallest(nodes: list[dict[str, Any]]) -> float:
    """Return the CPUs of the smallest node that has one."""
    return min(
        (size for node in nodes if (size := float(node["Resources"].get("CPU", 0))) >= 1),
        default=0.0,
    )


def sizes_of(nodes: list[dict[str, Any]]) -> list[float]:
    """Return the CPUs of each node."""
    return [float(node["Resources"].get("CPU", 0)) for node in nodes]


def fitting(wanted: float, sizes: list[float], cluster: ClusterConfig) -> float:
    """Return the CPUs of a worker so that all of them find room on the nodes.

    By itself a worker takes no more than leaves every node a whole CPU to decode with, where that
    is possible, and else one.

    Args:
        wanted: CPUs that it would take of the cluster as a whole.
        sizes: CPUs of each node.
        cluster: What the job wants.

    Raises:
        InputError: they find no room, and Ray would wait for ever without a word.
    """
    if cluster.cpus_per_worker == "auto":
        for each in range(int(wanted), 1, -1):
            if sum(int(max(0.0, size - 1) // each) for size in sizes) >= cluster.max_workers:
                return float(each)
        wanted = 1.0
    room = sum(int(size // wanted) for size in sizes)
    if room < cluster.max_workers:
        raise InputError(
            f"cluster.num_workers={cluster.num_workers} x cluster.cpus_per_worker={wanted:g} find"
            f" room for {room} on nodes of {', '.join(f'{size:g}' for size in sizes)} CPUs: use"
            " fewer workers, fewer CPUs a worker, or larger nodes"
        )
    return wanted


def leaving_a_cpu(wanted: float, size: float, cluster: ClusterConfig) -> float:
    """CPUs of a worker so that a node of `size` keeps a whole one, however many of them start
    there.

    Ray Train starts as many workers as fit, and of the rest of a node Ray Data is given the whole
    CPUs: of less than one, nothing, and then nothing is decoded. So a worker asks for more where
    one more of them would just fit.

    Raises:
        InputError: a worker leaves no whole CPU of such a node.
    """
    if cluster.cpus_per_worker == "auto":
        wanted = max(1.0, min(wanted, size - 1))
    fit = min(cluster.max_workers, int((size - 1) // wanted))
    while 0 < fit < cluster.max_workers and (fit + 1) * wanted <= size:
        wanted = math.floor(size / (fit + 1) * 1e4 + 1) / 1e4  # what Ray counts CPUs in
        fit = min(cluster.max_workers, int((size - 1) // wanted))
    if not fit:
        raise InputError(
            f"cluster.num_workers={cluster.num_workers} x"
            f" cluster.cpus_per_worker={cluster.cpus_per_worker} may take all {size:g} CPUs of a"
            " node, and decoding needs at least 1: use nodes of 3 CPUs or more, fewer CPUs a"
            " worker, or a fixed number of workers"
        )
    return wanted
