"""Measures the rates of a run: its first steps, by the job that will do it, into a folder of their
own."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.cluster.share import Session
from jobs.estimating.rates import Rates
from jobs.setup.failures import RunError
from jobs.training import checkpoints
from jobs.training.bottleneck import FREE_SHARE
from jobs.training.run_config import PretrainConfig, load_pretrain
from jobs.training.run_dir import RunDir
from pipelines.corpus.manifest import Manifest
from pipelines.storage import uris

LOOKS = 4  # while it is measured, so that the first one, which reads its images, is told apart
LINES = 5  # of the log, at least
SAVE_EVERY_S = 15.0
SETTLING = 0.2  # of the lines, in which caches and the pipeline fill

Line = dict[str, Any]
Pretrain = Callable[[PretrainConfig], dict[str, Any]]


@dataclass(frozen=True)
class Measured:
    """A run's first steps.

    Attributes:
        lines: Its log.
        begun: When it was started, in seconds since 1970.
        ended: When it was over.
        checkpoint_bytes: Of its last checkpoint.
    """

    lines: Sequence[Line]
    begun: float
    ended: float
    checkpoint_bytes: int


def first_steps(
    config: PretrainConfig, manifest: Manifest, out: str, num_steps: int, pretrain: Pretrain
) -> Measured:
    """Run the first steps of a run.

    Args:
        config: Of the whole run.
        manifest: Of its source.
        out: The run directory, new.
        num_steps: Of the whole run.
        pretrain: The job.

    Raises:
        RunError: it was stopped before.
    """
    measured = _shortened(config, manifest, out, num_steps)
    run = RunDir(out)
    begun = time.time()
    result = pretrain(measured)
    ended = time.time()
    lines = run.read_metrics()
    wanted = measured.debug.stop_at_step or num_steps
    if result["steps"] < wanted or not lines:
        raise RunError(f"the measured run was stopped at step {result['steps']} of {wanted}")
    folder = run.path(checkpoints.FOLDER, checkpoints.name_of(run.committed_step()))
    return Measured(lines, begun, ended, uris.size(uris.join(folder, checkpoints.STATE)))


def _shortened(
    config: PretrainConfig, manifest: Manifest, out: str, num_steps: int
) -> PretrainConfig:
    """Make the configuration of the measured run: the same steps, of which it stops early."""
    settings: Any = config
    steps = min(settings.estimate.steps, num_steps)
    every = min(config.log.every_steps, max(1, steps // LINES))
    if steps < num_steps:
        steps -= steps % every  # the last step has a line
    values = settings.model_dump(mode="json", exclude={"estimate", "prices"})
    values |= {"out": out, "num_steps": num_steps, "num_epochs": None}
    values["source"]["uri"] = manifest.uri
    values["debug"]["stop_at_step"] = steps
    values["log"] |= {"every_steps": every, "wandb": False, "mlflow": None}
    values["health"] |= {"every_steps": max(1, steps // LOOKS), "on_collapse": "warn"}
    values["checkpoint"]["every_s"] = min(config.checkpoint.every_s, SAVE_EVERY_S)
    values["cluster"]["num_workers"] = config.cluster.min_workers
    return load_pretrain(values)


def rates_of(
    measured: Measured,
    session: Session,
    *,
    batch: int,
    cores: float,
    start_s: float = 0.0,
    end_s: float = 0.0,
) -> Rates:
    """Turn the log of a run's first steps into rates.

    Args:
        measured: The run.
        session: What it had of the cluster.
        batch: Samples of a step.
        cores: That training and data share where there is no GPU.
        start_s: What came before the run, from the command on.
        end_s: What comes behind it.
    """
    lines = _timed(measured.lines, batch)
    first = max(1, int(SETTLING * len(lines))) if len(lines) > 1 else 0
    steady = lines[first:]
    workers = session.min_workers
    samples = batch * sum(line["steps"] for line in steady)
    step_s = sum(line["trained_s"] for line in steady) * batch / samples
    stages = {
        f"{name}_s": sum(line[f"{name}_ms"] * line["steps"] for line in lines)
        / (1000 * sum(line["steps"] for line in lines))
        for name in ("fetch", "decode", "crop")
    }
    waited = sum(line["wait_fraction"] * line["seconds"] for line in steady)
    waiting = waited / sum(line["seconds"] for line in steady)
    train, data = _by_device(
        step_s / batch, sum(stages.values()), waiting, session, workers=workers, cores=cores
    )
    looks = [line["look_s"] for line in lines if "health_step" in line]
    saves = [line["save_s"] for line in lines if line["save_s"] > 0]
    begin = lines[0]["time_s"] - lines[0]["seconds"]
    settling = sum(line["trained_s"] - line["steps"] * step_s for line in lines[:first])
    return Rates(
        device="gpu" if session.use_gpu else "cpu",
        train_samples_per_s=train,
        data_samples_per_s=data,
        start_s=max(0.0, start_s + begin - measured.begun),
        warm_up_s=max(0.0, settling),
        end_s=max(0.0, end_s + measured.ended - lines[-1]["time_s"]),
        first_look_s=looks[0] if looks else 0.0,
        look_s=sum(looks[1:]) / len(looks[1:]) if looks[1:] else 0.0,
        save_s=sum(saves) / len(saves) if saves else 0.0,
        checkpoint_bytes=measured.checkpoint_bytes,
        stages=stages,
    )


def _timed(lines: Sequence[Line], batch: int) -> list[Line]:
    """Add to each line its `steps`, its `seconds`, and those of them in which it trained."""
    found = []
    before = 0
    for line in lines:
        steps = line["step"] - before
        before = line["step"]
        seconds = steps * batch / line["images_per_s"]
        trained_s = max(0.0, seconds - line["look_s"] - line["save_s"])
        found.append(line | {"steps": steps, "seconds": seconds, "trained_s": trained_s})
    return found


def _by_device(
    sample_s: float, data_s: float, waiting: float, session: Session, *, workers: int, cores: float
) -> tuple[float, float]:
    """Return samples a second of training on one device, and of data on one core.

    Without a GPU, training and data take turns on the same cores, which are busy all the time: what
    data tasks do not use, training does. Beside GPUs, where training waits for data, all data CPUs
    together gave what was trained.
    """
    data_s = max(data_s, 1e-9)
    if not session.use_gpu:
        busy_s = cores * sample_s
        return 1 / max(busy_s - data_s, 0.05 * busy_s), 1 / min(data_s, 0.95 * busy_s)
    train_s = max(workers * sample_s * (1 - waiting), 1e-9)
    data_cpus = max(1.0, cores - workers * session.cpus_per_worker)
    if waiting > FREE_SHARE:
        data_s = max(data_s, data_cpus * sample_s)
    return 1 / train_s, 1 / data_s
