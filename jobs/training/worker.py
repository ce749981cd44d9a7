"""The training loop that runs in every Ray Train worker."""

import copy
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.train.collective import broadcast_from_rank_zero
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from augment.generator import ViewGenerator
from jobs.training import checkpoints
from jobs.training.audit import SampleAudit
from jobs.training.health_watch import Health, Look
from jobs.training.run_config import PretrainConfig, load_pretrain
from jobs.training.run_dir import RunDir, environment
from jobs.training.run_log import RunLog
from models import artifact, collectives, optim
from models.batch_norm import convert_sync_batch_norm
from models.method import Batch, Method
from models.registry import build_method
from pipelines import schema
from pipelines.stream.plan import Ledger

ROLLBACK_LR_SCALE = 0.5


def train_worker(job: dict[str, Any]) -> None:
    """Train from the last committed checkpoint to the last step.

    Args:
        job: `config` (as `model_dump`), `num_steps`, `num_rows` (ever stored in the manifest), `threads`,
            `photometric_done`, `run`, `manifest` (its URI), `ledger`, and `monitor`, the driver's actor.
    """
    if ray.get(job["monitor"].failure.remote()) is None:  # else Ray Train has started this for nothing
        _train(job)


def _train(job: dict[str, Any]) -> None:
    config, run = load_pretrain(job["config"]), RunDir(job["run"])
    _set_up_torch(config, job["threads"])
    rolled_back = run.rollback() is not None
    lr_scale = ROLLBACK_LR_SCALE if rolled_back else 1.0
    state = TrainState(config, ray.train.torch.get_device(), Ledger.from_dict(job["ledger"]), lr_scale)
    state.restore(ray.train.get_checkpoint())
    state.method.expect_rows(job["num_rows"])
    views = ViewGenerator(config.views, config.seed, torch.bfloat16 if state.autocast else torch.float32)
    attempt = broadcast_from_rank_zero(run.claim_attempt() if collectives.rank() == 0 else None)
    log = RunLog(config, job, state.step, attempt)
    audit = SampleAudit(run, attempt, collectives.rank(), enabled=config.debug.log_samples)
    control = Control(config, job["monitor"])
    health = Health(config, job, rolled_back=rolled_back)

    def save(*, wait: bool) -> None:
        log.check()
        log.flush()
        audit.flush()
        save_checkpoint(state, wait=wait)

    begun_at = state.step
    batches = log.timed(_batches(config, state))
    while state.step < job["num_steps"]:
        lr = state.set_lr(job["num_steps"])
        for last in _micro_batches(config.accumulate):
            columns, position = next(batches)
            batch = _method_batch(columns, views, photometric_done=job["photometric_done"])
            outputs = state.backward(batch, synchronise=last)
            log.saw(columns, position, outputs)
            audit.saw(state.step + 1, columns)
        grad_norm = state.update(job["num_steps"])
        final = state.step == job["num_steps"]
        verdict = control.exchange()
        saving = verdict.checkpoint or verdict.stop or final
        look = health.look(state.method, state.step, saving=saving, autocast=state.autocast)
        log.step(state.step, lr, grad_norm, look.figures if look else {}, final=final)
        if health.goes_back(look, log):
            return
        state.keep_best(look)
        if verdict.stop and not final:
            log.close(stopped_at=state.step)
            save(wait=True)
            return
        if verdict.checkpoint and not final:
            save(wait=False)
    if collectives.rank() == 0:
        write_artifact(state, job, log.last_line)
    log.close(stopped_at=None)
    if state.step > begun_at:  # a step is saved once: Ray Train would delete it twice, and fail the second time
        save(wait=True)


def _set_up_torch(config: PretrainConfig, threads: int) -> None:
    torch.set_num_threads(threads)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS refuses
        torch.use_deterministic_algorithms(True)


class TrainState:
    """Everything a checkpoint holds: the method, the optimiser, the step and the ledger of what they have seen."""

    def __init__(self, config: PretrainConfig, device: torch.device, plan: Ledger, lr_scale: float = 1.0) -> None:
        self.config = config
        self.device = device
        self._plan = plan
        method = build_method(config.method, config.encoder, config.views, config.seed)
        if collectives.world_size() > 1:
            convert_sync_batch_norm(method)
        self.method: Method = method.to(device).to(memory_format=torch.channels_last)
        self.model: torch.nn.Module = self.method
        if collectives.world_size() > 1:
            devices = [device] if device.type == "cuda" else None
            # Looking for unused parameters keeps the gradients in the buckets of the first step. DDP would regroup them
            # after it, and a sum over three or more workers rounds by its place in a bucket.
            self.model = DistributedDataParallel(
                self.method,
                device_ids=devices,
                broadcast_buffers=False,
                find_unused_parameters=config.deterministic,
            )
        self.peak_lr = lr_scale * optim.peak_lr(config.optim, config.global_batch_size)
        self.optimizer = optim.build_optimizer(self.method.param_groups(), config.optim, self.peak_lr)
        self.step = 0
        self.best: dict[str, Any] | None = None  # `step`, `rankme` and `encoder` of the healthiest look
        wanted = config.precision
        self.autocast = wanted == "bfloat16" or (wanted == "auto" and device.type == "cuda")

    def restore(self, checkpoint: ray.train.Checkpoint | None) -> None:
        """Go on from a committed checkpoint, if there is one."""
        if checkpoint is None:
            return
        with checkpoint.as_directory() as folder:
            saved = torch.load(Path(folder) / checkpoints.STATE, map_location=self.device, weights_only=True)
        self.method.load_state_dict(saved["method"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step, self.best = saved["step"], saved["best"]

    def state_dict(self) -> dict[str, Any]:
        """The state as tensors and plain values."""
        method, optimizer = self.method.state_dict(), self.optimizer.state_dict()
        return {"step": self.step, "method": method, "optimizer": optimizer, "best": self.best}

    def keep_best(self, look: Look | None) -> None:
        """Keep the encoder of the healthiest look, where it is to ship; rank 0 alone writes it."""
        if look is None or self.config.artifact.select != "best_health" or collectives.rank() != 0:
            return
        rankme = look.figures.get("health_rankme", 0.0)
        if look.collapse is None and (self.best is None or rankme > self.best["rankme"]):
            encoder = {name: tensor.detach().cpu().clone() for name, tensor in self.method.encoder.state_dict().items()}
            self.best = {"step": self.step, "rankme": rankme, "encoder": encoder}

    def ledger(self) -> Ledger:
        """Every position of the plan up to the last step's."""
        return self._plan.at(self.step * self.config.global_batch_size)

    def set_lr(self, num_steps: int) -> float:
        """Set the coming step's learning rate, which is returned, and weight decay."""
        schedule = self.config.optim
        return optim.set_schedule(self.optimizer, schedule, step=self.step, num_steps=num_steps, peak=self.peak_lr)

    def backward(self, batch: Batch, *, synchronise: bool) -> dict[str, Tensor]:
        """Add the gradients of one micro-batch; ranks average theirs at the last one of a step."""
        if isinstance(self.model, DistributedDataParallel):
            self.model.require_backward_grad_sync = synchronise
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            outputs: dict[str, Tensor] = self.model(batch)
        (outputs["loss"] / self.config.accumulate).backward()
        return outputs

    def update(self, num_steps: int) -> Tensor:
        """Take the optimiser's step; returns the norm of the gradient before clipping."""
        limit = self.config.optim.clip_grad_norm
        norm = torch.nn.utils.clip_grad_norm_(self.method.parameters(), float("inf") if limit is None else limit)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.method.after_step(self.step, num_steps)
        return norm


def _micro_batches(accumulate: int) -> Iterator[bool]:
    """Yield once a micro-batch of a step: whether it is the last."""
    return (index == accumulate - 1 for index in range(accumulate))


def _batches(config: PretrainConfig, state: TrainState) -> Iterator[tuple[dict[str, Tensor], int]]:
    """This rank's micro-batches on its device, each with the plan position at which it is due to begin."""
    world = collectives.world_size()
    micro = config.global_batch_size // (world * config.accumulate)
    shard = ray.train.get_dataset_shard("train")
    stream = shard.iter_torch_batches(
        batch_size=micro, prefetch_batches=2, device=state.device, pin_memory=state.device.type == "cuda"
    )
    first = state.step * config.global_batch_size + collectives.rank() * micro
    for index, columns in enumerate(stream):
        yield columns, first + index * micro * world


def _method_batch(columns: dict[str, Tensor], views: ViewGenerator, *, photometric_done: bool) -> Batch:
    epoch, sample_id = columns[schema.EPOCH], columns[schema.SAMPLE_ID]
    crops = {name: columns[name] for name in views.views.groups}
    images = views(crops, epoch, sample_id, photometric_done=photometric_done)
    row, valid = columns[schema.ROW], columns[schema.VALID]
    return {"views": images, "sample_id": sample_id, "row": row, "epoch": epoch, "valid": valid}


class Verdict:
    """What all ranks do after a step: bit 1 checkpoint, bit 2 stop."""

    def __init__(self, bits: int) -> None:
        self.checkpoint = bool(bits & 1)
        self.stop = bool(bits & 2)


class Control:
    """Rank 0's clock and the driver's wish to stop, agreed on by all ranks.

    The verdict of a step travels beside the next one on a gloo group, so that no GPU is waited for.
    """

    def __init__(self, config: PretrainConfig, monitor: Any) -> None:
        self._every_s = config.checkpoint.every_s
        self._monitor = monitor
        self._saved = time.monotonic()
        self._answer: Any = None
        self._several = collectives.world_size() > 1
        self._group: Any = dist.new_group(backend="gloo") if self._several else None
        self._bits = torch.zeros(1, dtype=torch.int64)
        self._pending: Any = None

    def exchange(self) -> Verdict:
        """Give this rank's view after a step and get the verdict all ranks share."""
        if self._pending is not None:
            self._pending.wait()
        verdict = Verdict(int(self._bits))
        self._bits = torch.tensor([self._decide(verdict) if collectives.rank() == 0 else 0])
        if self._several:
            self._pending = dist.broadcast(self._bits, src=0, group=self._group, async_op=True)
        return verdict

    def _decide(self, before: Verdict) -> int:
        now = time.monotonic()
        due = now - self._saved >= self._every_s and not before.stop
        if due:
            self._saved = now
        return int(due) | 2 * int(self._stop_wanted())

    def _stop_wanted(self) -> bool:
        """Ask the driver without waiting: the answer to an earlier question counts."""
        if self._answer is None:
            self._answer = self._monitor.log.remote(None)
        ready, _ = ray.wait([self._answer], timeout=0)
        if not ready:
            return False
        wanted = bool(ray.get(self._answer))
        self._answer = None
        return wanted


def save_checkpoint(state: TrainState, *, wait: bool) -> None:
    """Report a checkpoint to Ray Train; a barrier of all ranks, of which rank 0 writes."""
    mode = ray.train.CheckpointUploadMode.SYNC if wait else ray.train.CheckpointUploadMode.ASYNC
    checkpoint = None
    if collectives.rank() == 0:
        folder = tempfile.mkdtemp(prefix="afield-checkpoint-")
        checkpoints.write(folder, state.state_dict(), state.ledger())
        checkpoint = ray.train.Checkpoint.from_directory(folder)
    ray.train.report(
        {"step": state.step},
        checkpoint=checkpoint,
        checkpoint_dir_name=checkpoints.name_of(state.step),
        checkpoint_upload_mode=mode,
        delete_local_checkpoint_after_upload=True,
    )


def write_artifact(state: TrainState, job: dict[str, Any], metrics: dict[str, Any]) -> str:
    """Write the encoder with what made it; returns the digest."""
    config, run = state.config, RunDir(job["run"])
    dump = config.model_dump(mode="json")
    encoder, step = state.method.encoder, state.step
    if state.best is not None and config.artifact.select == "best_health":
        encoder, step = copy.deepcopy(encoder), state.best["step"]
        encoder.load_state_dict(state.best["encoder"])
    return artifact.save(
        run.path("artifact"),
        encoder,
        config={name: dump[name] for name in ("method", "encoder", "views", "optim", "seed", "global_batch_size")},
        preprocess={"image_size": config.views.size, "mean": config.views.mean, "std": config.views.std},
        provenance={
            "fingerprint": config.fingerprint(),
            "source": config.source.uri,
            "manifest_version": job["ledger"]["spans"][-1]["version"],
            "num_steps": step,
            "samples_seen": step * config.global_batch_size,
            "metrics": metrics,
            "packages": environment()["packages"],
        },
    )
