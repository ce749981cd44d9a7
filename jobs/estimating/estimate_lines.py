"""An estimate as lines of text, and as one object."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobs.estimating.cluster_shapes import Priced, reasons, twice
from jobs.estimating.price_table import PriceTable
from jobs.estimating.rates import Rates
from jobs.estimating.storage_use import GIB, StorageUse
from jobs.estimating.storage_use import dollars as storage_dollars
from jobs.estimating.time_model import Cluster, RunTime, Work, cores_per_device, run_time

MOST_SHAPES = 12
WIDTH = 15


@dataclass(frozen=True)
class Estimate:
    """What is known before a run.

    Attributes:
        work: What it does.
        source: The corpus.
        rates: By the sample.
        measured: On what the rates were measured; None: they were given.
        cluster: The cluster that this job had; None: it had none.
        time: What the run takes there.
        store_bytes: The object store's least.
        use: What it asks of storage.
        remote: Whether the source lies in object storage.
        prices: The price table, if there is one.
        shapes: Of that table, the best first.
        spot: Whether they are compared by the price of nodes that may be taken away.
    """

    work: Work
    source: str
    rates: Rates
    measured: str | None
    cluster: Cluster
    time: RunTime
    store_bytes: int
    use: StorageUse
    remote: bool
    prices: PriceTable | None
    shapes: Sequence[Priced]
    spot: bool

    @property
    def storage_dollars(self) -> float:
        """Return what requests cost, by the price table."""
        return storage_dollars(self.use, self.prices.storage) if self.prices else 0.0


def lines(found: Estimate) -> list[str]:
    """Write an estimate for people."""
    work = found.work
    rates = found.rates
    time = found.time
    passes = work.num_steps * work.batch / work.samples
    core = "GPU" if rates.device == "gpu" else "core"
    texts = {
        "samples": f"{work.samples:,} of {found.source}",
        "run": f"{work.num_steps:,} steps of {work.batch:,} samples, {passes:.3g} passes",
        "rates": found.measured or "as given",
        "training": f"{rates.train_samples_per_s:,.4g} samples a second of one {core}",
        "data": f"{rates.data_samples_per_s:,.4g} samples a second of one core{_stages(rates)}",
        "decode cores": f"{cores_per_device(rates):.2g} for each {core} that trains",
        "a step": f"{_seconds(time.step.seconds)}: {time.step.limit} limits",
        "hours": f"{time.seconds / 3600:.3g}: {_parts(time)}",
        "object store": f"{found.store_bytes / GIB:.2f} GiB at least",
        "checkpoints": f"{time.saves + 1:,} of {_bytes(rates.checkpoint_bytes)}",
        "storage": _storage(found),
        "next": _next(found),
    }
    told = [f"{name:{WIDTH}}{text}" for name, text in texts.items() if text]
    return [*told, *_table(found)]


def _stages(rates: Rates) -> str:
    if not rates.stages:
        return ""
    parts = [f"{name.removesuffix('_s')} {1000 * s:.2g} ms" for name, s in rates.stages.items()]
    return f" ({', '.join(parts)})"


def _parts(time: RunTime) -> str:
    parts = _parts_of(time).items()
    return ", ".join(f"{name} {_seconds(s)}" for name, s in parts if s >= 0.05)


def _parts_of(time: RunTime) -> dict[str, float]:
    """Return the seconds of a run by what takes them."""
    return {
        "listing": time.list_s,
        "start": time.start_s,
        "steps": time.steps_s,
        "looks": time.looks_s,
        "checkpoints": time.saves_s,
        "end": time.end_s,
    }


def _seconds(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 600:
        return f"{seconds:.3g} s"
    return f"{seconds / 3600:.3g} h"


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _storage(found: Estimate) -> str:
    use = found.use
    if not found.remote:
        return f"{_bytes(use.read_bytes)} read from local files"
    text = (
        f"{use.lists:,} LIST, {use.reads:,} GET ({_bytes(use.read_bytes)}), {use.writes:,} PUT;"
        f" {_bytes(use.kept_bytes)} of checkpoints stay"
    )
    return f"{text}: {found.storage_dollars:,.2f} dollars" if found.prices else text


def _next(found: Estimate) -> str:
    """Say which cluster would be faster, and how much, where there are no prices."""
    if found.prices is not None:
        return ""
    larger = run_time(found.work, found.rates, twice(found.cluster))
    texts = [f"twice the nodes: {larger.seconds / 3600:.3g} hours, {larger.step.limit} limits"]
    if found.rates.device == "gpu" and found.time.step.limit == "decoding":
        wanted = cores_per_device(found.rates) * found.cluster.workers
        more = wanted - found.cluster.data_cpus
        texts.insert(0, f"{more:.0f} more data CPUs, and training limits")
    return "; ".join(texts)


def _table(found: Estimate) -> list[str]:
    if found.prices is None:
        return []
    if not found.shapes:
        return ["", "no cluster of the price table holds this run"]
    wide = max(len("cluster"), *(len(one.shape.name) for one in found.shapes[:MOST_SHAPES]))
    head = f"{'cluster':{wide}}  {'hours':>8}  {'dollars':>9}  {'spot':>9}  limits"
    rows = [_row(one, wide) for one in found.shapes[:MOST_SHAPES]]
    best = found.shapes[0]
    told = [f"{'best':{WIDTH}}{best.shape.name}: {best.time.step.limit} limits"]
    if found.shapes[1:]:
        other = found.shapes[1]
        why = reasons(best, other, spot=found.spot)
        told.append(f"{'next best':{WIDTH}}{other.shape.name}: {why}")
    dated = f"{'prices':{WIDTH}}{found.prices.source}, {found.prices.date}"
    return ["", head, *rows, "", *told, dated]


def _row(one: Priced, wide: int) -> str:
    hours = one.time.seconds / 3600
    spot = "" if one.spot_dollars is None else f"{one.spot_dollars:,.2f}"
    name = one.shape.name
    return f"{name:{wide}}  {hours:8.3g}  {one.dollars:9,.2f}  {spot:>9}  {one.time.step.limit}"


def as_object(found: Estimate) -> dict[str, Any]:
    """Return an estimate as plain values; `rates` is what `estimate.rates` takes."""
    time = found.time
    return {
        "samples": found.work.samples,
        "steps": found.work.num_steps,
        "hours": time.seconds / 3600,
        "step_s": time.step.seconds,
        "limit": time.step.limit,
        "decode_cores_per_device": cores_per_device(found.rates),
        "object_store_bytes": found.store_bytes,
        "requests": {
            "list": found.use.lists,
            "read": found.use.reads,
            "write": found.use.writes,
            "read_bytes": found.use.read_bytes,
        },
        "storage_dollars": found.storage_dollars if found.prices else None,
        "parts_s": _parts_of(time),
        "shapes": [_shape_object(one) for one in found.shapes],
        "rates": found.rates.model_dump(mode="json"),
    }


def _shape_object(one: Priced) -> dict[str, Any]:
    return {
        "nodes": dict(one.shape.nodes),
        "workers": one.shape.cluster.workers,
        "hours": one.time.seconds / 3600,
        "dollars": one.dollars,
        "spot_dollars": one.spot_dollars,
        "limit": one.time.step.limit,
    }
