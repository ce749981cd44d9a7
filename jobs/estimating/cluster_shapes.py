"""Clusters that a price table allows, each with its time and its price, the best first."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from jobs.estimating.price_table import NodeType, PriceTable
from jobs.estimating.rates import Rates
from jobs.estimating.storage_use import GIB
from jobs.estimating.time_model import (
    CPUS_PER_GPU_WORKER,
    Cluster,
    RunTime,
    Work,
    run_time,
    step_time,
    store_bytes,
)

STORE_SHARE = 0.3  # of a node's memory, which Ray gives its object store
GBIT_BYTES = 1e9 / 8
HOUR_S = 3600


@dataclass(frozen=True)
class Sizes:
    """What of a run decides which clusters hold it.

    Attributes:
        row_bytes: Of one sample's views in the object store.
        item_rows: Samples that one data task makes.
        accumulate: Micro-batches of a step and worker.
        fewest: Samples that a worker's batch must hold.
    """

    row_bytes: int
    item_rows: int
    accumulate: int
    fewest: int


@dataclass(frozen=True)
class Shape:
    """A cluster of a price table.

    Attributes:
        nodes: Name and number of each kind of node.
        cluster: What it gives a run.
        dollars_per_hour: Of all nodes.
        spot_dollars_per_hour: The same of nodes that may be taken away; None: not known.
        memory_bytes: Of all nodes.
    """

    nodes: tuple[tuple[str, int], ...]
    cluster: Cluster
    dollars_per_hour: float
    spot_dollars_per_hour: float | None
    memory_bytes: float

    @property
    def name(self) -> str:
        """Return the nodes in words, as `2 x a + 1 x b`."""
        return " + ".join(f"{count} x {name}" for name, count in self.nodes)


@dataclass(frozen=True)
class Priced:
    """A shape with what a run takes on it.

    Attributes:
        shape: The cluster.
        time: How long the run takes.
        dollars: For its nodes.
        spot_dollars: The same of nodes that may be taken away; None: not known.
    """

    shape: Shape
    time: RunTime
    dollars: float
    spot_dollars: float | None

    def price(self, *, spot: bool) -> float:
        """Return the dollars by which shapes are compared."""
        return self.spot_dollars if spot and self.spot_dollars is not None else self.dollars


def priced(work: Work, rates: Rates, sizes: Sizes, table: PriceTable) -> list[Priced]:
    """Price every cluster of a table that holds the run, in the table's order.

    Powers of two of each kind of node; where decoding would limit those with GPUs, also with as
    many nodes without as it takes.
    """
    found = []
    for shape in _shapes(work, rates, sizes, table):
        if why_not(shape, work, sizes) is not None:
            continue
        time = run_time(work, rates, shape.cluster)
        hours = time.seconds / HOUR_S
        spot = shape.spot_dollars_per_hour
        found.append(
            Priced(
                shape, time, hours * shape.dollars_per_hour, None if spot is None else hours * spot
            )
        )
    return found


def ranked(shapes: Sequence[Priced], *, max_hours: float | None, spot: bool) -> list[Priced]:
    """Order shapes: those in time first, then by dollars, then by hours."""

    def key(one: Priced) -> tuple[bool, float, float]:
        late = max_hours is not None and one.time.seconds > max_hours * HOUR_S
        return late, one.price(spot=spot) if not late else one.time.seconds, one.time.seconds

    return sorted(shapes, key=key)


def why_not(shape: Shape, work: Work, sizes: Sizes) -> str | None:
    """Say why a shape cannot hold a run; None where it can."""
    cluster = shape.cluster
    if cluster.data_cpus < 1:
        return "training leaves no CPU to decode with"
    share, rest = divmod(work.batch, cluster.workers * sizes.accumulate)
    if rest or work.batch // cluster.workers < sizes.fewest:
        return f"a batch of {work.batch} does not divide among {cluster.workers} workers"
    wanted = store_of(sizes, share, cluster)
    if wanted > STORE_SHARE * shape.memory_bytes:
        return f"its object store would need {wanted / GIB:.1f} GiB"
    return None


def store_of(sizes: Sizes, share: int, cluster: Cluster) -> int:
    """Return the object store's least bytes, for so many samples of a worker's micro-batch."""
    item = sizes.row_bytes * sizes.item_rows
    return store_bytes(sizes.row_bytes * share, item, cluster.data_cpus, cluster.workers)


def _shapes(work: Work, rates: Rates, sizes: Sizes, table: PriceTable) -> Iterator[Shape]:
    gpu = rates.device == "gpu"
    for name, kind in table.nodes.items():
        if gpu and not kind.gpus:
            continue
        for count in _powers(kind.most):
            alone = _of(((name, kind, count),), gpu=gpu)
            yield alone
            step = step_time(work, rates, alone.cluster)
            if not gpu or step.limit != "decoding":
                continue
            wanted = work.batch / (rates.data_samples_per_s * step.train_s)
            missing = wanted - alone.cluster.data_cpus
            for beside, other in table.nodes.items():
                number = math.ceil(missing / other.cpus)
                if not other.gpus and 0 < number <= other.most:
                    yield _of(((name, kind, count), (beside, other, number)), gpu=True)


def _powers(most: int) -> Iterator[int]:
    count = 1
    while count <= most:
        yield count
        count *= 2


def _of(nodes: Sequence[tuple[str, NodeType, int]], *, gpu: bool) -> Shape:
    """Make the shape of so many nodes of each kind; the first kind trains."""
    _, first, number = nodes[0]
    workers = number * first.gpus if gpu else number
    cpus = sum(kind.cpus * count for _, kind, count in nodes)
    network = [(kind.network_gbit_per_s, count) for _, kind, count in nodes]
    known = [rate * GBIT_BYTES * count for rate, count in network if rate is not None]
    spot = [(kind.spot_dollars_per_hour, count) for _, kind, count in nodes]
    prices = [price * count for price, count in spot if price is not None]
    data_cpus = cpus - workers * CPUS_PER_GPU_WORKER
    return Shape(
        nodes=tuple((name, count) for name, _, count in nodes),
        cluster=Cluster(
            workers=workers,
            cpus=cpus,
            data_cpus=data_cpus,
            speed=first.speed,
            bytes_per_s=sum(known) if len(known) == len(network) else None,
        ),
        dollars_per_hour=sum(kind.dollars_per_hour * count for _, kind, count in nodes),
        spot_dollars_per_hour=sum(prices) if len(prices) == len(spot) else None,
        memory_bytes=sum(kind.memory_gib * GIB * count for _, kind, count in nodes),
    )


def reasons(best: Priced, other: Priced, *, spot: bool) -> str:
    """Say what another shape costs and takes beside the best one."""
    money = _compared(other.price(spot=spot), best.price(spot=spot), "dearer", "cheaper")
    time = _compared(other.time.seconds, best.time.seconds, "longer", "shorter")
    return f"{money}, {time}; {other.time.step.limit} limits"


def _compared(value: float, base: float, more: str, less: str) -> str:
    share = value / base - 1 if base else 0.0
    if abs(share) < 0.005:
        return f"no {more}"
    return f"{abs(share):.0%} {more if share > 0 else less}"


def twice(cluster: Cluster) -> Cluster:
    """Return a cluster of twice the nodes."""
    network = cluster.bytes_per_s
    return replace(
        cluster,
        workers=2 * cluster.workers,
        cpus=2 * cluster.cpus,
        data_cpus=2 * cluster.data_cpus,
        bytes_per_s=None if network is None else 2 * network,
    )
