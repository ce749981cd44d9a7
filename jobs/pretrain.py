"""Pretrain an encoder on unlabelled images: manifest -> Ray Data -> views -> Ray Train -> artifact."""

import sys
import threading
from typing import Any

import ray
import ray.train
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from jobs.setup import launch
from jobs.setup.command_line import InputError, main
from jobs.setup.inputs import check_media, manifest_of
from jobs.training import checkpoints
from jobs.training.bottleneck import bottleneck
from jobs.training.monitor import Monitor, StepProgress, TellMonitor, stop_signals
from jobs.training.planned_data import PlannedData, resolve
from jobs.training.run_config import PretrainConfig, build, complete_pretrain
from jobs.training.run_dir import MANIFEST, RunDir
from jobs.training.worker import train_worker
from models import artifact
from models.optim import peak_lr
from pipelines.corpus.manifest import Manifest
from pipelines.storage import uris
from pipelines.stream.plan import Plan

POLL_S = 0.5


def pretrain(config: PretrainConfig) -> dict[str, Any]:
    """Run or resume a pretraining run to its last step.

    Returns:
        `steps`, `artifact`, `artifact_digest`, and the last log line's values.

    Raises:
        InputError: the input or the cluster cannot do it; nothing was started or changed.
    """
    config, run = _located(config)
    build(config)
    launch.check_reachable("source.uri", config.source.uri)
    resumed = run.check(config)
    paths = (run.uri, config.source.uri)
    with launch.session(config.cluster, paths=paths, placement=config.views.placement) as session:
        checkpoints.mend(run.path(checkpoints.FOLDER))
        plan, done = _plan(config, run), run.committed_step()
        run.write_config(config)
        num_steps = config.steps(plan)
        if done >= num_steps and not run.has_artifact():
            raise InputError(
                f"num_steps {num_steps}: {run.uri} has made {done} steps and no artifact: give more than that"
            )
        if resumed:
            print(f"resuming {run.uri} from step {done} of {num_steps}", file=sys.stderr)
        print(_derived(config, plan.manifest, num_steps), file=sys.stderr)
        stopped_at = None if done >= num_steps else _train(config, run, plan, num_steps, session)
    lines = run.join_metrics()
    if finding := bottleneck(lines):
        print(finding, file=sys.stderr)
    if stopped_at is not None:
        print(
            f"stopped at step {stopped_at} of {num_steps}; the same command line goes on from there",
            file=sys.stderr,
        )
        return {"exit_code": 1, "steps": stopped_at, "result": run.uri}
    digest = artifact.load(run.path("artifact")).digest
    last = lines[-1] if lines else {}
    return {
        **last,
        "steps": num_steps,
        "artifact": run.path("artifact"),
        "artifact_digest": digest,
        "result": run.path("artifact"),
    }


def _located(config: PretrainConfig) -> tuple[PretrainConfig, RunDir]:
    """Make the configuration's URIs absolute."""
    source = config.source.model_copy(
        update={"uri": launch.user_uri("source.uri", config.source.uri)}
    )
    out = launch.absolute_out(config.out)
    return config.model_copy(update={"source": source, "out": out}), RunDir(out)


def _check_rows(config: PretrainConfig, manifest: Manifest) -> None:
    try:
        config.method.check_rows(manifest.num_stored)
    except ValueError as error:
        raise InputError(f"source.uri {config.source.uri}: {error}") from None


def _plan(config: PretrainConfig, run: RunDir) -> Plan:
    """The order of samples: what the checkpoint's ledger has it be, and from there on the newest manifest version.

    Raises:
        InputError: the source holds no samples, more than the method has room for, or clips for a method of images; or
            its manifest was made anew since.
    """
    manifest = manifest_of(config.source, run.path(MANIFEST), config.clip.per_video)
    check_media(manifest, as_frames=config.clip.as_frames, method=config.method.name)
    _check_rows(config, manifest)
    ledger = run.ledger()
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
        f"{manifest.num_rows} samples, {num_steps} steps of {config.global_batch_size} ({per_worker} a worker); "
        f"peak learning rate {rate:.3g} (optim.lr {config.optim.lr:g} at 256, {config.optim.lr_scaling} scaling)"
    )


def _train(
    config: PretrainConfig, run: RunDir, plan: Plan, num_steps: int, session: launch.Session
) -> int | None:
    """Train to the end, from the last checkpoint once more where a collapse sends the run back; returns as `_fit`."""
    before = run.rollback()
    stopped_at = _fit(config, run, plan, num_steps, session)
    back = run.rollback()
    if back is None or back == before:
        return stopped_at
    print(
        f"{back['reason']}; going back to step {run.committed_step()} at half the learning rate",
        file=sys.stderr,
    )
    return _fit(config, run, plan, num_steps, session)


def _fit(
    config: PretrainConfig, run: RunDir, plan: Plan, num_steps: int, session: launch.Session
) -> int | None:
    """Train; returns the step at which a signal stopped it, None at the end."""
    monitor: Any = ray.remote(num_cpus=0)(Monitor).remote()
    filesystem, path = uris.arrow_filesystem(run.uri)
    placement = resolve(config.views.placement, session)
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "num_steps": num_steps,
            "num_rows": plan.manifest.num_stored,
            "threads": session.threads_per_worker,
            "photometric_done": placement != "worker",
            "run": run.uri,
            "manifest": plan.manifest.uri,
            "ledger": plan.ledger.as_dict(),
            "monitor": monitor,
        },
        scaling_config=ScalingConfig(
            num_workers=session.scaling,
            use_gpu=session.use_gpu,
            resources_per_worker={
                "CPU": session.cpus_per_worker,
                **({"GPU": session.gpus_per_worker} if session.use_gpu else {}),
            },
        ),
        run_config=RunConfig(
            name=checkpoints.FOLDER,
            storage_path=path,
            storage_filesystem=filesystem,
            checkpoint_config=CheckpointConfig(num_to_keep=config.checkpoint.keep),
            callbacks=[TellMonitor(monitor)],  # type: ignore[list-item]  # the annotation is of Train V1
            failure_config=FailureConfig(max_failures=config.cluster.max_failures),
        ),
        datasets={"train": lambda: ray.data.range(1)},
        dataset_config=PlannedData(
            config, plan, run, num_steps, placement=placement, view_actors=session.view_actors
        ),
    )
    _watch(trainer, monitor, num_steps, run.committed_step())
    stopped_at: int | None = ray.get(monitor.stopped_at.remote())
    return stopped_at


def _watch(trainer: TorchTrainer, monitor: Any, num_steps: int, done: int) -> None:
    """Run `fit` beside the main thread, which shows progress and passes signals on.

    On the main thread `fit` would answer SIGINT itself, without a checkpoint.
    """
    failure: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=fit, name="fit", daemon=True)
    with StepProgress(num_steps, done) as progress, stop_signals() as wanted:
        thread.start()
        told = False
        while thread.is_alive():
            thread.join(POLL_S)
            if wanted.is_set() and not told:
                told = True
                monitor.stop.remote()
            for line in ray.get(monitor.take.remote()):
                progress.show(line)
            if lasting := ray.get(monitor.failure.remote()):
                raise lasting  # not waiting for Ray Train, which would start the workers again
    if failure:
        raise failure[0]


if __name__ == "__main__":
    sys.exit(main("pretrain", __doc__ or "", complete_pretrain, pretrain))
