"""What a cluster has, what of it is free, and which nodes its autoscaler may bring."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import ray

from jobs.cluster import ray_cluster

Resources = Mapping[str, float]

LEAST = 1e-4  # Ray counts resources in ten thousandths


@dataclass(frozen=True)
class Capacity:
    """What a cluster has.

    Attributes:
        totals: Resources of each node that is up.
        free: What of them nothing holds.
        to_come: Resources of each further node that the autoscaler may start.
        unknown: Whether an autoscaler runs that does not say what it may start.
    """

    totals: tuple[Resources, ...]
    free: tuple[Resources, ...]
    to_come: tuple[Resources, ...]
    unknown: bool

    @property
    def at_most(self) -> tuple[Resources, ...]:
        """Return the resources of all nodes that there may ever be."""
        return (*self.totals, *self.to_come)


def capacity(*, own: bool) -> Capacity:
    """Look at the cluster that this process has joined; a Ray of its own brings no nodes."""
    nodes = {
        node["NodeID"]: resources_of(node["Resources"]) for node in ray.nodes() if node["Alive"]
    }
    free = {} if own else ray_cluster.free_by_node()
    kinds = [] if own else ray_cluster.node_types()
    return Capacity(
        totals=tuple(nodes.values()),
        free=tuple(
            total if own else resources_of(free.get(name, {})) for name, total in nodes.items()
        ),
        to_come=tuple(_to_come(nodes.values(), kinds or [])),
        unknown=kinds is None,
    )


def largest_store() -> float:
    """Return the bytes that the largest object store of the nodes holds."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return max((float(node.get("object_store_memory", 0)) for node in nodes), default=0.0)


def resources_of(values: Resources) -> Resources:
    """Return the CPUs and GPUs among resources."""
    return {name: float(values.get(name, 0)) for name in ("CPU", "GPU")}


def total(nodes: Iterable[Resources], name: str) -> float:
    """Return the sum of a resource over nodes."""
    return sum(node[name] for node in nodes)


def _to_come(up: Iterable[Resources], kinds: Sequence[ray_cluster.NodeType]) -> Iterable[Resources]:
    """Yield the nodes that an autoscaler may add to those that are up."""
    left = list(up)
    for kind in kinds:
        each = resources_of(kind.resources)
        for _ in range(kind.most):
            if each in left:
                left.remove(each)
            else:
                yield each


def fits(bundles: Sequence[Resources], nodes: Iterable[Resources]) -> bool:
    """Tell whether nodes hold all bundles at once, the largest placed first."""
    room = [dict(node) for node in nodes]
    for bundle in sorted(bundles, key=_size, reverse=True):
        # the tightest node that holds it, so that GPUs are left to those who ask for them
        found = [node for node in room if all(node[k] + LEAST >= v for k, v in bundle.items())]
        if not found:
            return False
        node = min(found, key=_size)
        for name, value in bundle.items():
            node[name] -= value
    return True


def _size(resources: Resources) -> tuple[float, float]:
    return (resources.get("GPU", 0), resources.get("CPU", 0))
