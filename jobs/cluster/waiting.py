"""Waits until a cluster has room for a job, and says what for."""

import sys
import time
from collections import Counter
from collections.abc import Sequence

import ray
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

from jobs.cluster import available, ray_cluster
from jobs.cluster.available import Resources
from jobs.cluster.gauges import WaitingGauge
from jobs.setup.failures import InputError

FIRST_S = 2.0
EVERY_S = 10.0
SETTLES_S = 5.0  # what is given back is free for others within a heartbeat of its node
ENDED_S = 60.0  # a run that has not repeated its request for so long has ended
LONGEST = 160  # characters of another job's command line


def wait_for_room(bundles: Sequence[Resources]) -> None:
    """Return once the cluster has room for bundles of resources at the same time.

    A placement group asks for them: Ray gives it what becomes free, and an autoscaler starts nodes
    for it. It is given back at the end, and by Ray itself where this process is killed.

    Raises:
        InputError: the autoscaler has no nodes that could ever hold them.
    """
    if lacking(bundles) is None:
        return
    group = placement_group([dict(bundle) for bundle in bundles], strategy="PACK")
    begun = time.monotonic()
    gauge = WaitingGauge(ray.get_runtime_context().get_job_id())
    try:
        patience = FIRST_S
        while not group.wait(patience):
            gauge.show(time.monotonic() - begun)
            _tell(bundles, group)
            patience = EVERY_S
    finally:
        gauge.show(0)
        remove_placement_group(group)
    deadline = time.monotonic() + SETTLES_S
    while lacking(bundles) is not None and time.monotonic() < deadline:
        time.sleep(0.1)


def lacking(bundles: Sequence[Resources]) -> str | None:
    """Say what of a cluster there must be and is not free, and who holds it; None where all is."""
    found = available.capacity(own=True).totals
    free = [available.resources_of(one) for one in ray_cluster.free_by_node().values()]
    if available.fits(bundles, free):
        return None
    names = [name for name in ("CPU", "GPU") if any(name in bundle for bundle in bundles)]
    left = [
        f"{available.total(free, name):g} of {available.total(found, name):g} {name}s"
        for name in names
    ]
    jobs = [f"`{_shortened(line)}`" for line in ray_cluster.other_jobs()]
    held = f"; the rest is held by {', '.join(jobs)}" if jobs else ""
    return f"room for {described(bundles)}: {' and '.join(left)} are free{held}"


def taken_by_others() -> str | None:
    """Say what a running job lacks to read on, and which others hold it; None where it has that, or
    holds the rest itself."""
    return lacking([{"CPU": 1.0}]) if ray_cluster.other_jobs() else None


def still_lacking(bundles: Sequence[Resources]) -> str | None:
    """Say what there must be for bundles of resources, as `lacking`; None once this job holds a
    placement group: what it holds is not free, and is there.

    What a run that has ended asked for is dropped.
    """
    own = ray.get_runtime_context().get_job_id()  # which the group's id ends with
    groups = placement_group_table().items()
    if any(id.endswith(own) and group["state"] == "CREATED" for id, group in groups):
        return None
    kept = ray_cluster.drop_unheard_requests(ENDED_S)
    if said := lacking(bundles):
        return said
    return f"{ENDED_S:g} s to pass since a run that has ended asked for workers" if kept else None


def _shortened(command: str) -> str:
    """Return a job's command line without the folder of its interpreter."""
    program, space, words = command.partition(" ")
    return f"{program.rpartition('/')[2]}{space}{words}"[:LONGEST]


def described(bundles: Sequence[Resources]) -> str:
    """Name bundles of resources, as `2 x (1 CPU, 1 GPU) and 1 x (1 CPU)`."""
    texts = (
        ", ".join(f"{value:g} {name}" for name, value in bundle.items() if value)
        for bundle in bundles
    )
    return " and ".join(f"{count} x ({text})" for text, count in Counter(texts).items())


def _tell(bundles: Sequence[Resources], group: PlacementGroup) -> None:
    coming, refused = ray_cluster.autoscaler_says(group.id.hex())
    if refused:
        raise InputError(
            f"the cluster's autoscaler has no nodes that hold {described(bundles)}: use fewer"
            " workers, fewer CPUs a worker, or larger nodes"
        )
    counts = Counter(coming).items()
    nodes = ", ".join(f"{count} x {kind}" for kind, count in counts)
    starting = f"; nodes are starting: {nodes}" if nodes else ""
    if (what := lacking(bundles)) is not None:
        print(f"waiting for {what}{starting}", file=sys.stderr, flush=True)
