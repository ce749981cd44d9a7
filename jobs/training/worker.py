"""The training loop that runs in every Ray Train worker."""

import os
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.train.collective import broadcast_from_rank_zero
from torch import Tensor

from augment.generator import Generator, generator_of
from jobs.setup import failures, run_artifact
from jobs.setup.failures import InputError, RunError
from jobs.training import checkpoints
from jobs.training.audit import SampleAudit
from jobs.training.health_watch import Health
from jobs.training.run_config import PretrainConfig
from jobs.training.run_log import RunLog
from jobs.training.state import TrainState
from jobs.training.steering.control import Control
from jobs.training.steering.monitor import answer
from jobs.training.training_job import TrainingJob
from models import collectives
from models.method import Batch, Shipped
from models.motion.raft import Raft
from models.steps import acceleration
from pipelines import schema

ROLLBACK_LR_SCALE = 0.5
COMPILED_STEPS = 1000  # from as many on, compiling costs less than it saves


def train_worker(loop_config: dict[str, Any]) -> None:
    """Train from the last committed checkpoint to the last step, then write the artifact.

    Args:
        loop_config: A reference to the `TrainingJob`, as "job": Ray Train insists on a dictionary.
    """
    job: TrainingJob = ray.get(loop_config["job"])
    if answer(job.monitor.failure.remote(), None) is not None:
        return  # Ray Train has started this for nothing
    attempt = broadcast_from_rank_zero(job.run.claim_attempt() if collectives.rank() == 0 else None)
    try:
        with failures.as_one_line():  # here, where a traceback tells our errors from a library's
            _train(job, attempt)
    except (RunError, InputError):
        raise
    except Exception:
        answer(job.monitor.keep.remote(attempt, traceback.format_exc()), None)
        raise


@dataclass(frozen=True)
class _Training:
    """What one worker trains with."""

    job: TrainingJob
    state: TrainState
    views: Generator
    log: RunLog
    audit: SampleAudit
    flow: Raft | None

    def step(self, batches: Iterator[tuple[dict[str, Tensor], int]]) -> tuple[float, Tensor]:
        """Take one step; returns its learning rate and the norm of its gradient."""
        state = self.state
        lr = state.begin_step(self.job.num_steps)
        for last in _micro_batches(self.job.config.accumulate):
            columns, position = next(batches)
            batch = self._batch(columns)
            outputs = state.backward(batch, synchronise=last)
            self.log.saw(columns, position, outputs)
            self.audit.saw(state.step + 1, columns)
        return lr, state.update(self.job.num_steps)

    def _batch(self, columns: dict[str, Tensor]) -> Batch:
        """Make a method's input of a batch of the stream."""
        batch = _method_batch(columns, self.views, self.job)
        if self.flow is not None:
            crops = columns[next(iter(self.job.config.image_views.groups))]
            batch["targets"] = batch.get("targets", {}) | {schema.FLOW: self.flow(crops)}
        return batch

    def save(self, *, wait: bool) -> None:
        """Write a checkpoint, and before it what says which samples it has seen."""
        with self.log.aside("save_s"):
            self._save(wait=wait)

    def keep(self) -> None:
        """Write a checkpoint that stays for good."""
        state = self.state
        with self.log.aside("save_s"):
            contents = state.state_dict()
            if collectives.rank() == 0:
                checkpoints.write_to_series(self.job.run.uri, state.step, contents, state.ledger())

    def _save(self, *, wait: bool) -> None:
        self.log.check()
        self.log.flush()
        self.audit.flush()
        self.state.samples_seen = self.log.bad.seen
        self.state.bad_samples = dict(self.log.bad.reasons)
        if collectives.rank() == 0:
            self.job.run.check_held()
        save_checkpoint(self.state, wait=wait)

    def end(self) -> None:
        """Judge the bad samples once more, and write the artifact."""
        log = self.log
        log.bad.check(final=True)
        ships = self.state.shipped(self.job.num_rows)
        if ships is not None:
            lines = [log.last_line] if log.last_line else self.job.run.join_metrics()
            write_artifact(ships, self.state.step, self.job, lines[-1] if lines else {})
        log.close()


def _train(job: TrainingJob, attempt: int) -> None:
    config = job.config
    rolled_back = job.run.rollback() is not None
    training = _set_up(job, attempt, ROLLBACK_LR_SCALE if rolled_back else 1.0)
    state = training.state
    log = training.log
    control = Control(config, job.monitor)
    health = Health(job, rolled_back=rolled_back)
    begun_at = state.step
    batches = log.timed(_batches(config, state))
    while state.step < job.num_steps:
        lr, grad_norm = training.step(batches)
        final = state.step == job.num_steps
        verdict = control.exchange()
        stop = verdict.stop or state.step == config.debug.stop_at_step
        saving = verdict.checkpoint or stop or final
        with log.aside("look_s"):
            look = health.look(state.method, state.step, saving=saving, autocast=state.autocast)
        log.step(state.step, lr, grad_norm, look.figures if look else {}, final=final)
        if health.goes_back(look, log):
            return
        if config.checkpoint.stays(state.step):
            training.keep()
        if stop and not final:
            training.save(wait=True)
            log.close()
            return
        if verdict.checkpoint and not final:
            training.save(wait=False)
    if state.step > begun_at:  # Ray Train would delete a step that is saved twice two times
        # before anything that may fail: from here on nothing is trained again
        training.save(wait=True)
    training.end()


def _set_up(job: TrainingJob, attempt: int, lr_scale: float) -> _Training:
    """Build the network, and go on from the newest checkpoint."""
    config = job.config
    set_up_torch(config, job.threads)
    if collectives.rank() == 0:
        job.monitor.log.remote({"waiting": "building the network"})
    device = ray.train.torch.get_device()
    state = TrainState(config, device, job.ledger, lr_scale, compiled=_compiles(job, device))
    state.restore(ray.train.get_checkpoint())
    state.method.expect_rows(job.num_rows)
    views = generator_of(config.views, config.seed, state.autocast or torch.float32)
    log = RunLog(job, state.step, attempt)
    log.bad.add(state.samples_seen, state.bad_samples)
    audit = SampleAudit(job.run, attempt, collectives.rank(), enabled=config.debug.log_samples)
    flow = config.clip.flow_network(device)
    return _Training(job, state, views, log, audit, flow)


def set_up_torch(config: PretrainConfig, threads: int) -> None:
    """Have torch compute as configured, in this process."""
    torch.set_num_threads(threads)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS refuses
        torch.use_deterministic_algorithms(True)
    wanted = config.train.tf32
    if config.precision != "float32" if wanted == "auto" else wanted:
        torch.set_float32_matmul_precision("high")


def _compiles(job: TrainingJob, device: torch.device) -> bool:
    """Tell whether this worker compiles its encoder."""
    wanted = job.config.train.compile
    if wanted != "auto":
        return wanted
    if device.type != "cuda" or job.num_steps < COMPILED_STEPS:
        return False
    if acceleration.can_compile():
        return True
    line = "the encoder is not compiled: there is no C++ compiler on a training node"
    job.monitor.log.remote({"warning": line})
    return False


def _micro_batches(accumulate: int) -> Iterator[bool]:
    """Yield once a micro-batch of a step: whether it is the last."""
    return (index == accumulate - 1 for index in range(accumulate))


def _batches(config: PretrainConfig, state: TrainState) -> Iterator[tuple[dict[str, Tensor], int]]:
    """Yield this rank's micro-batches on its device, each with the plan position at which it
    begins."""
    world = collectives.world_size()
    micro = config.global_batch_size // (world * config.accumulate)
    shard = ray.train.get_dataset_shard("train")
    stream = shard.iter_torch_batches(
        batch_size=micro,
        prefetch_batches=2,
        device=state.device,
        pin_memory=state.device.type == "cuda",
    )
    first = state.step * config.global_batch_size + collectives.rank() * micro
    for index, columns in enumerate(stream):
        yield columns, first + index * micro * world


def _method_batch(columns: dict[str, Tensor], views: Generator, job: TrainingJob) -> Batch:
    epoch = columns[schema.EPOCH]
    sample_id = columns[schema.SAMPLE_ID]
    crops = {name: columns[name] for name in views.views.groups}
    images = views(crops, epoch, sample_id, photometric_done=job.photometric_done)
    row = columns[schema.ROW]
    valid = columns[schema.VALID]
    batch: Batch = {
        "views": images,
        "sample_id": sample_id,
        "row": row,
        "epoch": epoch,
        "valid": valid,
    }
    if job.targets:
        batch["targets"] = {name: columns[name] for name in job.targets}
    return batch


def save_checkpoint(state: TrainState, *, wait: bool) -> None:
    """Report a checkpoint to Ray Train; a barrier of all ranks, of which rank 0 writes."""
    mode = ray.train.CheckpointUploadMode.SYNC if wait else ray.train.CheckpointUploadMode.ASYNC
    checkpoint = None
    contents = state.state_dict()
    if collectives.rank() == 0:
        folder = tempfile.mkdtemp(prefix="afield-checkpoint-")
        checkpoints.write(folder, contents, state.ledger())
        checkpoint = ray.train.Checkpoint.from_directory(folder)
    ray.train.report(
        {"step": state.step},
        checkpoint=checkpoint,
        checkpoint_dir_name=checkpoints.name_of(state.step),
        checkpoint_upload_mode=mode,
        delete_local_checkpoint_after_upload=True,
    )


def write_artifact(
    ships: Shipped,
    step: int,
    job: TrainingJob,
    metrics: dict[str, Any],
) -> str:
    """Write the encoder that ships with what made it; returns the digest."""
    config = job.config
    job.run.check_held()
    return run_artifact.write(
        job.run.path(run_artifact.folder_of(ships.head)),
        job.run.uri,
        config,
        ships.encoder,
        head=ships.head,
        text=ships.text,
        step=step,
        ledger=job.ledger,
        commit=job.commit,
        metrics=metrics,
    )
