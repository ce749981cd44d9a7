"""Pretrain an encoder on unlabelled images: manifest -> Ray Data -> views -> Ray Train ->
artifact."""

import sys
from dataclasses import replace
from typing import Any

from jobs.cluster import launch
from jobs.corpora.corpus_checks import check_corpus
from jobs.corpora.run_tokens import tokenizer_of
from jobs.setup import run_start
from jobs.setup.bad_samples import BadSamples
from jobs.setup.claims import check_writable, held
from jobs.setup.command_line import main
from jobs.setup.failures import InputError, as_one_line
from jobs.setup.inputs import check_not_older, listed_already, manifest_of
from jobs.setup.value_range import settled, warn_of_flat
from jobs.tracking.tracker import check_trackers
from jobs.training import checkpoints
from jobs.training.bottleneck import bottleneck
from jobs.training.fit import fit
from jobs.training.planned_data import Samples
from jobs.training.run_config import PretrainConfig, build, complete_pretrain
from jobs.training.run_dir import MANIFEST, OWN_FOLDERS, TOKENIZER, RunDir
from models import artifact
from models.multimodal.two_towers import TwoTowersConfig
from models.optim import peak_lr
from models.registry import METHODS
from models.starting.continuation import gentle_groups
from pipelines.captions.caption_table import CaptionTable
from pipelines.captions.drawn_captions import Captions
from pipelines.captions.learning import kept_tokenizer
from pipelines.corpus.manifest import Manifest
from pipelines.media.contract import REASONS
from pipelines.storage.lease import Held
from pipelines.stream.plan import Plan


def pretrain(config: PretrainConfig) -> dict[str, Any]:
    """Run or resume a pretraining run to its last step.

    Returns:
        `steps`, `artifact`, `artifact_digest`, and the last log line's values.

    Raises:
        InputError: the input or the cluster cannot do it; nothing was started or changed.
    """
    config, run = _located(config)
    gentle_groups(build(config, start=False), config.start)
    _check_batch(config)
    check_trackers(config.log)
    launch.check_reachable("source.uri", config.source.uri)
    check_writable("out", run.uri)
    with held("pretrain", run.uri, *OWN_FOLDERS) as mine:
        return _run(config, replace(run, fence=mine.fence), mine)


def _run(config: PretrainConfig, run: RunDir, mine: Held) -> dict[str, Any]:
    """Run or resume while nobody else writes to the run directory."""
    start = run_start.prepare(config, run)
    resumed = run.check(config)
    if listed := listed_already(config.source.uri, run.path(MANIFEST)):
        check_corpus(config, listed)  # else after the listing, which takes Ray
    paths = (run.uri, config.source.uri, *filter(None, [config.clip.flow_weights]))
    with launch.session(config.cluster, paths=paths, placement=config.placement) as session:
        checkpoints.mend(run.path(checkpoints.FOLDER))
        plan = _plan(config, run)
        done = run.committed_step()
        if start is not None:
            tokenizer_of(config, plan, run.path(TOKENIZER))
            run_start.keep(start, config, run)
        run.write_config(config)
        num_steps = config.steps(plan)
        if resumed:
            print(f"resuming {run.uri} from step {done} of {num_steps}", file=sys.stderr)
        print(_derived(config, plan.manifest, num_steps), file=sys.stderr)
        if warning := _few_samples(config, plan.manifest):
            print(f"warning: {warning}", file=sys.stderr)
        whole = done >= num_steps and run.has_artifact_of(done)
        read = config
        if not whole:
            source = settled(config.source, plan.manifest, run.uri)
            warn_of_flat(plan.manifest, source.limits())
            read = config.model_copy(update={"source": source})
        finished = whole or _train(read, run, plan, num_steps, session, mine)
    lines = run.join_metrics()
    _tell_left_out(config, run, lines)
    if finding := bottleneck(lines):
        print(finding, file=sys.stderr)
    if not finished:
        done = run.committed_step()
        print(
            f"stopped at step {done} of {num_steps}; the same command line goes on from there",
            file=sys.stderr,
        )
        return {"exit_code": 1, "steps": done, "result": run.uri}
    digest = artifact.load(run.path("artifact")).digest
    last = lines[-1] if lines else {}
    return {
        **last,
        "steps": max(done, num_steps),
        "artifact": run.path("artifact"),
        "artifact_digest": digest,
        "result": run.path("artifact"),
    }


def _tell_left_out(config: PretrainConfig, run: RunDir, lines: list[dict[str, Any]]) -> None:
    """Say on stderr what training could not use, so far."""
    if not lines:
        return
    last = lines[-1]
    reasons = {name: int(last[f"bad_{name}"]) for name in REASONS if f"bad_{name}" in last}
    bad = BadSamples(config.source.max_bad_fraction, run.path("quarantine"))
    bad.add(last["samples"], reasons)
    bad.tell()


def _located(config: PretrainConfig) -> tuple[PretrainConfig, RunDir]:
    """Make the configuration's URIs absolute."""
    places = {"uri": launch.user_uri("source.uri", config.source.uri)}
    captions = config.source.captions
    if captions is not None and CaptionTable.is_named_by(captions):
        places["captions"] = launch.user_uri("source.captions", captions)
    if config.source.poses is not None:
        places["poses"] = launch.user_uri("source.poses", config.source.poses)
    source = config.source.model_copy(update=places)
    out = launch.absolute_out(config.out)
    encoder = config.encoder
    if encoder.weights is not None:
        uri = launch.user_uri("encoder.weights", encoder.weights)
        encoder = encoder.model_copy(update={"weights": uri})
    clip = config.clip
    if clip.flow_weights is not None:
        uri = launch.user_uri("clip.flow_weights", clip.flow_weights)
        clip = clip.model_copy(update={"flow_weights": uri})
    placed = {"source": source, "out": out, "encoder": encoder, "clip": clip}
    return config.model_copy(update=placed), RunDir(out)


def _check_batch(config: PretrainConfig) -> None:
    fewest = METHODS[config.method.name].min_samples()
    if config.global_batch_size < fewest:
        raise InputError(
            f"global_batch_size {config.global_batch_size} is too small: {config.method.name} "
            f"compares the samples of a batch, and needs at least {fewest}"
        )


def _few_samples(config: PretrainConfig, manifest: Manifest) -> str | None:
    """Say that a batch holds images twice, where the method compares the samples of a batch."""
    compares = not METHODS[config.method.name].accumulates
    if config.global_batch_size <= manifest.num_rows or not compares:
        return None
    return (
        f"global_batch_size {config.global_batch_size} is more than the {manifest.num_rows} "
        f"samples: {config.method.name} compares an image with itself"
    )


def _check_rows(config: PretrainConfig, manifest: Manifest) -> None:
    try:
        config.method.check_rows(manifest.num_stored)
    except ValueError as error:
        raise InputError(f"source.uri {config.source.uri}: {error}") from None


def _plan(config: PretrainConfig, run: RunDir) -> Plan:
    """Plan the order of samples: the checkpoint's ledger first, then the newest manifest version.

    Raises:
        InputError: the source holds no samples, more than the method has room for, or clips for a
            method of images; or its manifest was made anew since.
    """
    manifest = manifest_of(config.source, run.path(MANIFEST), config.clip.per_video, config.medium)
    check_corpus(config, manifest)
    _check_rows(config, manifest)
    ledger = run.ledger()
    if ledger.spans:
        check_not_older(run.uri, ledger.spans[-1].version, manifest)
    joined = ledger.onto(manifest.version, config.source.interleave)
    if ledger.spans and ledger.spans[-1].version != manifest.version:
        print(
            f"the running epoch goes on with manifest version {manifest.version}", file=sys.stderr
        )
    try:
        return Plan.open(manifest.uri, joined, config.seed)
    except ValueError as error:
        raise InputError(f"source.uri {error}") from None


def _derived(config: PretrainConfig, manifest: Manifest, num_steps: int) -> str:
    """Say what follows from the configuration, and why."""
    per_worker = config.global_batch_size // config.cluster.max_workers
    rate = peak_lr(config.optim, config.global_batch_size)
    return (
        f"{manifest.num_rows} samples, {num_steps} steps of {config.global_batch_size}"
        f" ({per_worker} a worker); peak learning rate {rate:.3g} (optim.lr {config.optim.lr:g} at"
        f" 256, {config.optim.lr_scaling} scaling)"
    )


def _train(
    config: PretrainConfig,
    run: RunDir,
    plan: Plan,
    num_steps: int,
    session: launch.Session,
    mine: Held,
) -> bool:
    """Train as `fit` does, from the last checkpoint once more where a collapse sends the run
    back."""
    before = run.rollback()
    tokenizer = tokenizer_of(config, plan, run.path(TOKENIZER))
    samples = Samples.of_plan(plan, config, _captions(config, run, plan), tokenizer)
    finished = fit(config, run, samples, num_steps, session, mine)
    back = run.rollback()
    if back is None or back == before:
        return finished
    print(
        f"{back['reason']}; going back to step {run.committed_step()} at half the learning rate",
        file=sys.stderr,
    )
    return fit(config, run, samples, num_steps, session, mine)


def _captions(config: PretrainConfig, run: RunDir, plan: Plan) -> Captions | None:
    """Learn the tokens of the captions where the method takes them, or read those that were.

    Raises:
        InputError: there are no captions to learn from.
    """
    place = config.source.captions_of(plan.manifest)
    if place is None or not isinstance(config.method, TwoTowersConfig):
        return None
    with as_one_line(source_key="source.captions"):
        tokenizer = kept_tokenizer(
            run.path(TOKENIZER), plan, place, config.source.limits(), config.method.vocab_size
        )
    return Captions(place, tokenizer, config.method.context_length, config.seed)


if __name__ == "__main__":
    sys.exit(main("pretrain", __doc__ or "", complete_pretrain, pretrain))
