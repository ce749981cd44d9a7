"""Say before a run what it takes: steps, hours, decode cores, storage requests and dollars.

It takes the words of jobs.pretrain. The first steps of that run are trained and measured, then
deleted; or rates are given. A price table adds dollars, and the best and the next best cluster."""

import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from jobs.cluster import available, launch
from jobs.cluster.cores import own_cores
from jobs.cluster.share import Session
from jobs.corpora.corpus_checks import check_corpus
from jobs.corpora.run_tokens import tokenizer_of
from jobs.estimating import measuring
from jobs.estimating.cluster_shapes import Sizes, priced, ranked, store_of
from jobs.estimating.estimate_config import EstimateConfig, complete
from jobs.estimating.estimate_lines import Estimate, as_object, lines
from jobs.estimating.price_table import PriceTable, read_prices
from jobs.estimating.rates import Rates, read_rates, write_rates
from jobs.estimating.storage_use import of_a_sample, storage_use
from jobs.estimating.time_model import Cluster, Work, run_time
from jobs.pretrain import pretrain
from jobs.setup import claims
from jobs.setup.command_line import main
from jobs.setup.inputs import listed_already, manifest_of
from jobs.setup.value_range import settled
from jobs.training.planned_data import PlannedData, Samples, resolve
from jobs.training.run_config import build
from jobs.training.run_dir import MANIFEST, RunDir
from models.registry import METHODS
from pipelines.corpus.manifest import Manifest
from pipelines.storage import processes, uris
from pipelines.stream.ingest import Ingest
from pipelines.stream.plan import Plan


@dataclass(frozen=True)
class _Seen:
    """What was found while Ray ran.

    Attributes:
        manifest: Of the source.
        listed: Whether it was made for this.
        num_steps: Of the whole run.
        stream: What the data tasks do.
        reads: Requests and bytes with which they read a sample.
        cluster: What this job had.
        rates: Measured, or given.
        measured: On what they were measured; None: given.
    """

    manifest: Manifest
    listed: bool
    num_steps: int
    stream: Ingest
    reads: tuple[float, float]
    cluster: Cluster
    rates: Rates
    measured: str | None


def estimate(config: EstimateConfig) -> dict[str, Any]:
    """Estimate a run.

    Raises:
        InputError: the recipe, the source, the prices or the rates cannot do.
    """
    started_s = processes.age_s()
    prices = read_prices(config.prices) if config.prices else None
    given = read_rates(config.estimate.rates) if config.estimate.rates else None
    if given:
        _warn_of_others(config, given)
    save = config.estimate.save and launch.user_uri("estimate.save", config.estimate.save)
    if save:
        claims.check_writable("estimate.save", save.rpartition("/")[0])
    config = _located(config)
    gradient_bytes = _gradient_bytes(config)
    launch.check_reachable("source.uri", config.source.uri)
    with _work_folder(config) as work:
        begun = time.monotonic()
        with launch.session(
            config.cluster,
            work="tasks" if given else "train",
            paths=(config.source.uri, work),
            placement=config.placement,
        ) as session:
            started_s += time.monotonic() - begun
            seen = _look(config, session, work, given, started_s)
            closing = time.monotonic()
        closed_s = time.monotonic() - closing
    rates = seen.rates
    if given is None:
        more: dict[str, Any] = {"measured_with": _settings(config)}
        more |= {"end_s": rates.end_s + closed_s, "gradient_bytes": gradient_bytes}
        rates = rates.model_copy(update=more)
        if save:
            write_rates(rates, save)
    found = _estimated(config, seen, rates, prices)
    return {**as_object(found), "result": "\n".join(lines(found))}


def _settings(config: EstimateConfig) -> dict[str, Any]:
    """Return the settings that rates depend on most, as dotted keys to values."""
    experiment = config.experiment()
    names = ("method.name", "encoder.name", "encoder.width", "views.size")
    return {name: experiment[name] for name in names}


def _warn_of_others(config: EstimateConfig, given: Rates) -> None:
    """Say where given rates were measured with other settings than the run's."""
    theirs = given.measured_with
    differing = claims.differing(theirs, _settings(config)) if theirs else []
    if differing:
        print(f"warning: the rates differ in {', '.join(differing)}", file=sys.stderr)


def _located(config: EstimateConfig) -> EstimateConfig:
    uri = launch.user_uri("source.uri", config.source.uri)
    out = launch.absolute_out(config.out) if config.out else ""
    source = config.source.model_copy(update={"uri": uri})
    return config.model_copy(update={"source": source, "out": out})


def _gradient_bytes(config: EstimateConfig) -> int:
    parameters = build(config, start=False).parameters()
    return sum(each.numel() * each.element_size() for each in parameters if each.requires_grad)


@contextmanager
def _work_folder(config: EstimateConfig) -> Iterator[str]:
    """Give a place for the measured run, and delete it at the end."""
    name = f"afield-estimate-{uuid.uuid4().hex[:8]}"
    if config.estimate.work:
        place = uris.join(launch.user_uri("estimate.work", config.estimate.work), name)
    elif config.out and not uris.is_local(config.out):
        place = f"{config.out.rstrip('/')}-{name}"
    else:
        place = uris.join(tempfile.gettempdir(), name)
    try:
        yield place
    finally:
        uris.remove(place)


def _look(
    config: EstimateConfig, session: Session, work: str, given: Rates | None, started_s: float
) -> _Seen:
    """Count the samples and measure the rates, on the cluster that this job has."""
    source = config.source.uri
    there = listed_already(source, uris.join(config.out, MANIFEST) if config.out else source)
    begun = time.monotonic()
    listing = there.uri if there else uris.join(work, "listing", MANIFEST)
    manifest = manifest_of(config.source, listing, config.clip.per_video, config.medium)
    listed_s = time.monotonic() - begun
    check_corpus(config, manifest)
    plan = Plan.fresh(manifest, config.seed, config.source.interleave)
    num_steps = config.steps(plan)
    cluster = _cluster(config, session)
    stream = _stream(config, plan, num_steps, session)
    # now, as a listing that was made for this is deleted
    reads = of_a_sample(stream, config.source.captions_of(manifest))
    if given:
        return _Seen(manifest, there is None, num_steps, stream, reads, cluster, given, None)
    run = uris.join(work, "run")
    first = measuring.first_steps(config, manifest, run, num_steps, pretrain)
    rates = measuring.rates_of(
        first, session, batch=config.global_batch_size, cores=cluster.cpus, start_s=started_s
    )
    if there is None:
        rates = rates.model_copy(update={"list_samples_per_s": manifest.num_rows / listed_s})
    measured = _described(first, session, cluster)
    return _Seen(manifest, there is None, num_steps, stream, reads, cluster, rates, measured)


def _described(first: measuring.Measured, session: Session, cluster: Cluster) -> str:
    steps = first.lines[-1]["step"]
    many = "" if cluster.workers == 1 else "s"
    device = "a GPU each" if session.use_gpu else "no GPU"
    return f"measured in {steps} steps on {cluster.workers} worker{many}, {device}" + (
        f", {cluster.cpus:g} cores"
    )


def _cluster(config: EstimateConfig, session: Session) -> Cluster:
    """Return what this job's cluster gives the run."""
    nodes = available.capacity(own=True).totals
    logical = available.total(nodes, "CPU")
    workers = config.cluster.min_workers
    # a local Ray may count more CPUs than there are cores
    cores = min(logical, own_cores()) if len(nodes) == 1 else logical
    return Cluster(workers, cores, max(1.0, logical - workers * session.cpus_per_worker))


def _stream(config: EstimateConfig, plan: Plan, num_steps: int, session: Session) -> Ingest:
    source = settled(config.source, plan.manifest)
    config = config.model_copy(update={"source": source})
    data = PlannedData(
        config,
        Samples.of_plan(plan, config, tokenizer=tokenizer_of(config, plan)),
        RunDir(config.out),
        num_steps,
        placement=resolve(config.placement, session),
        view_actors=session.view_actors,
    )
    return data.work(config.cluster.min_workers)


def _estimated(
    config: EstimateConfig, seen: _Seen, rates: Rates, prices: PriceTable | None
) -> Estimate:
    """Put together what is known."""
    stream = seen.stream
    requests, size = seen.reads
    given = rates.bytes_per_sample
    work = Work(
        samples=seen.manifest.num_rows,
        num_steps=seen.num_steps,
        batch=config.global_batch_size,
        looks=-(-seen.num_steps // config.health.every_steps),
        every_s=config.checkpoint.every_s,
        listed=seen.listed,
        bytes_per_sample=size if given is None else given,
    )
    sizes = Sizes(
        row_bytes=stream.row_bytes(),
        item_rows=stream.item_rows(),
        accumulate=config.accumulate,
        fewest=METHODS[config.method.name].min_samples(),
    )
    time_here = run_time(work, rates, seen.cluster)
    shapes = priced(work, rates, sizes, prices) if prices else []
    settings = config.estimate
    return Estimate(
        work=work,
        source=seen.manifest.source,
        rates=rates,
        measured=seen.measured,
        cluster=seen.cluster,
        time=time_here,
        store_bytes=store_of(sizes, stream.block_rows, seen.cluster),
        use=storage_use(
            work,
            time_here,
            requests_per_sample=requests,
            checkpoint_bytes=rates.checkpoint_bytes,
            kept=config.checkpoint.keep,
        ),
        remote=not uris.is_local(seen.manifest.source),
        prices=prices,
        shapes=ranked(shapes, max_hours=settings.max_hours, spot=settings.spot),
        spot=settings.spot,
    )


if __name__ == "__main__":
    sys.exit(main("estimate", __doc__ or "", complete, estimate))
