"""The training of a cycle: a warm start from the champion, on a mixture of old and new."""

from typing import Any

from jobs.pretrain import pretrain
from jobs.retraining.corpus import LINEAGE
from jobs.retraining.cycle import Cycle
from jobs.retraining.looks import held_out
from jobs.retraining.retrain_sections import RetrainConfig, training_of
from jobs.setup import run_artifact
from jobs.training import checkpoints
from jobs.training.run_dir import RunDir
from jobs.training.run_log import Diverged
from models.optim import cooldown_start
from pipelines import schema
from pipelines.registry.model_versions import Version
from pipelines.retraining.drawn_rows import drawn
from pipelines.retraining.mixture import HELD_OUT, Ages, Mixture
from pipelines.storage import uris

RUN = "run"
MIXTURE = "mixture"
TRUNK = "trunk"  # the weights before the cool-down, from which the next cycle starts


class Stopped(Exception):
    """A signal ended the training; the same command goes on."""


def train(
    config: RetrainConfig, cycle: Cycle, ages: Ages, champion: Version | None
) -> dict[str, Any]:
    """Train to the end, or go on to it.

    Returns:
        `samples` of the mixture, `replayed` (the share of the old ones), `num_steps`,
        `started_from`, `artifact` (None where training failed, and then `failure`), `trunk`,
        `samples_seen` and the log's last line.

    Raises:
        Stopped: a signal came.
    """
    mixture = _mixture(config, ages, cycle.slot)
    wanted = {"slot": cycle.slot, "replayed": round(mixture.replayed, 6)}
    chosen = mixture.write(cycle.path(MIXTURE), wanted)
    num_steps = _steps(config, chosen.num_rows, warm=champion is not None)
    optim = config.optim
    begin = cooldown_start(num_steps, optim) if optim.schedule == "infinite" else 0
    keep = begin if 0 < begin < num_steps else 0
    start = _start_of(champion)
    told: dict[str, Any] = {
        "samples": chosen.num_rows,
        "replayed": round(mixture.replayed, 4),
        "num_steps": num_steps,
        "started_from": start,
        "artifact": None,
        "trunk": None,
    }
    training = training_of(
        config,
        source=chosen.uri,
        out=cycle.path(RUN),
        weights=start,
        num_steps=num_steps,
        keep=keep,
    )
    try:
        result = pretrain(training)
    except Diverged as error:
        return told | {"failure": str(error), "samples_seen": 0, "last": {}}
    if result.get("exit_code"):
        raise Stopped
    told |= {
        "artifact": result["artifact"],
        "samples_seen": num_steps * training.global_batch_size,
        "last": {name: value for name, value in result.items() if isinstance(value, int | float)},
    }
    run = RunDir(cycle.path(RUN))
    if keep in checkpoints.whole(run.uri):
        trunk = cycle.path(TRUNK)
        run_artifact.write_from_checkpoint(run, training, keep, trunk)
        told["trunk"] = trunk
    return told


def _mixture(config: RetrainConfig, ages: Ages, slot: str) -> Mixture:
    kept_back = held_out(config, ages)
    numbers = drawn(kept_back.rows[schema.SAMPLE_ID].to_numpy(), HELD_OUT)
    old = numbers[: kept_back.num_old].max(initial=-1.0)
    new = numbers[kept_back.num_old :].max(initial=-1.0)
    return Mixture(ages, config.retrain.replay_share, (float(old), float(new)), slot)


def _steps(config: RetrainConfig, rows: int, *, warm: bool) -> int:
    length = config.retrain.length if warm else 1.0
    if config.num_steps is not None:
        return max(1, round(config.num_steps * length))
    assert config.num_epochs is not None
    return max(1, int(rows * config.num_epochs * length) // config.global_batch_size)


def _start_of(champion: Version | None) -> str | None:
    """Return the weights to start from: the champion's before its cool-down, else its own."""
    if champion is None:
        return None
    trunk = (champion.lineage.get(LINEAGE) or {}).get("trunk")
    if trunk is not None and uris.exists(uris.join(trunk, run_artifact.DESCRIPTION)):
        return str(trunk)
    return champion.artifact
