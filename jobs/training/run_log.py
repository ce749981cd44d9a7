"""Measures a training worker while it runs: lines for people, parts in the run directory,
TensorBoard."""

import resource
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from jobs.cluster.gauges import Gauges
from jobs.setup.bad_samples import BadSamples
from jobs.setup.failures import RunError
from jobs.training.steering.monitor import answer
from jobs.training.training_job import TrainingJob
from models import collectives, health
from pipelines import schema
from pipelines.media.contract import REASONS
from pipelines.storage import step_log, uris
from pipelines.storage.retries import RETRIES

Item = TypeVar("Item")
FLUSH_S = 15.0
SHARES = (schema.FETCH_S, schema.DECODE_S, schema.CROP_S, schema.RETRIES)  # columns that are summed
SUMS = ("misplaced", "infinite", *SHARES, "transport_s", *REASONS)
ASIDE = ("look_s", "save_s")  # what training stood still for


class PretrainingError(RunError):
    """The run must not go on, and starting its workers again would not help."""


class Diverged(PretrainingError):
    """The settings lead nowhere: the loss is not finite, or the encoder has collapsed."""


class RunLog:
    """Sums up the steps between two log lines over all ranks; rank 0 writes.

    Args:
        job: What is trained.
        step: Steps done before.
        attempt: Number of this start of the workers.
    """

    def __init__(self, job: TrainingJob, step: int, attempt: int) -> None:
        self.last_line: dict[str, Any] = {}
        self._config = job.config
        self._run = job.run
        self._monitor = job.monitor
        self._logged_step = step
        self._started = time.monotonic()
        self._attempt = attempt
        self._wait_s = self._waited_s = self._taken_at = 0.0
        self._retries = RETRIES.total
        self._sums = torch.zeros(len(SUMS), dtype=torch.float64)
        self.bad = BadSamples(
            job.config.source.max_bad_fraction, job.run.path("quarantine"), job.epoch_samples
        )
        self._outputs: dict[str, Tensor] = {}
        self._look: dict[str, float] = {}  # figures of the last look, until a line takes them
        self._aside = dict.fromkeys(ASIDE, 0.0)
        self._first = collectives.rank() == 0
        if self._first:
            self._gauges = Gauges(job.run.uri, job.num_steps)
            self._open()
            self._told = self._monitor.log.remote(
                {"started_at": step, "attempt": self._attempt, "workers": collectives.world_size()}
            )

    def _open(self) -> None:
        from torch.utils.tensorboard import SummaryWriter  # here, as only rank 0 needs it

        self._part = 1
        self._lines = list[dict[str, Any]]()
        self._flushed = time.monotonic()
        self._writing: Future[None] | None = None
        self._background = ThreadPoolExecutor(1, thread_name_prefix="metrics")
        self._compaction = ThreadPoolExecutor(1, thread_name_prefix="compaction")
        self._compaction.submit(self._compact)  # what attempts before have left
        self._folder = tempfile.TemporaryDirectory(prefix="afield-tensorboard-")
        self._board = SummaryWriter(self._folder.name) if self._config.log.tensorboard else None

    def timed(self, batches: Iterator[Item]) -> Iterator[Item]:
        """Yield batches and count the time waited for them; waiting for the first one is start-
        up."""
        first = True
        if self._first:
            self._monitor.log.remote({"waiting": "reading the first batch"})
        while True:
            before = time.monotonic()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._taken_at = time.time()
            self._waited_s = time.monotonic() - before
            if first:
                if self._first:
                    self._monitor.log.remote({"waiting": None})
                self._started = time.monotonic()
                self._waited_s = 0.0
                first = False
            self._wait_s += self._waited_s
            yield batch

    @contextmanager
    def aside(self, what: str) -> Iterator[None]:
        """Count the seconds of a block in which this worker does not train, as one of `ASIDE`."""
        before = time.monotonic()
        try:
            yield
        finally:
            self._aside[what] += time.monotonic() - before

    def saw(self, columns: dict[str, Tensor], position: int, outputs: dict[str, Tensor]) -> None:
        """Take note of one micro-batch, due to begin at a plan position; nothing is waited for."""
        found = columns[schema.POSITION]
        reason = columns[schema.REASON]
        due = torch.arange(position, position + len(found), device=found.device)
        kinds = torch.arange(1, 1 + len(REASONS), device=found.device)
        bad = (reason[:, None] == kinds).sum(0)  # bincount would wait for the device
        transport_s = (self._taken_at - columns[schema.READY_AT].max()).clamp(0, self._waited_s)
        new = [
            (found != due).sum(),
            found.new_zeros(()),
            *(columns[name].sum() for name in SHARES),
            transport_s,
            *bad,
        ]
        self._sums = self._sums.to(found.device) + torch.stack([value.double() for value in new])
        self._outputs = outputs

    def check(self) -> None:
        """Make sure, before weights are called committed, that they are numbers and saw the samples
        that are theirs.

        Raises:
            PretrainingError: they are not, or did not.
        """
        if misplaced := int(self._sums[SUMS.index("misplaced")]):
            raise PretrainingError(self._out_of_order(misplaced))
        if infinite := int(self._sums[SUMS.index("infinite")]):
            raise Diverged(_not_finite(infinite))

    def _out_of_order(self, misplaced: int) -> str:
        return (
            f"{misplaced} samples since the last line were those of other steps than theirs: please"
            " report this"
        )

    def step(
        self, step: int, lr: float, grad_norm: Tensor, look: dict[str, float], *, final: bool
    ) -> None:
        """Take note of a step and of a look after it; every so many steps all ranks agree on a
        line, rank 0 sends it.

        Raises:
            PretrainingError: the run must not go on; the same on every rank.
        """
        self._sums[SUMS.index("infinite")] += ~grad_norm.isfinite()
        self._look = look or self._look
        if step % self._config.log.every_steps and not final:
            return
        shared = self._reduce(grad_norm)
        now = time.monotonic()
        elapsed = now - self._started
        steps = step - self._logged_step
        sums = {name: shared.pop(name) for name in (*SUMS, "wait_s")}
        found = {reason: int(count) for reason in REASONS if (count := sums[reason])}
        self.bad.add(steps * self._config.global_batch_size, found)
        misplaced = int(sums["misplaced"])
        infinite = int(sums["infinite"]) // collectives.world_size()
        times = stage_times(
            sums, steps * self._config.global_batch_size, elapsed * collectives.world_size()
        )
        line = {
            "step": step,
            "samples": step * self._config.global_batch_size,
            "lr": lr,
            **shared,
            **self._look,
            "images_per_s": steps * self._config.global_batch_size / elapsed,
            **times,
            **self._aside,
            "time_s": time.time(),
            "memory_gib": _memory_gib(),
            "bad_samples": self.bad.total,
            **{f"bad_{reason}": count for reason, count in self.bad.reasons.items()},
        }
        self._started = now
        self._logged_step = step
        self._wait_s = 0.0
        self._look = {}
        self._aside = dict.fromkeys(ASIDE, 0.0)
        if self._first:
            self._write(line)
        self.last_line = line
        if problem := self._problem(line, misplaced, infinite):
            self.close()
            raise problem

    def _reduce(self, grad_norm: Tensor) -> dict[str, float]:
        """Average the scalar outputs over ranks and sum up what is counted; one all-reduce."""
        embedding = self._outputs["embedding"].float()
        scalars = {name: value for name, value in self._outputs.items() if value.ndim == 0}
        scalars |= {
            "feature_std": health.feature_std(embedding),
            "rankme": health.rankme(embedding),
            "embedding_norm": embedding.norm(dim=1).mean(),
            "grad_norm": grad_norm,
        }
        # of this process: what it writes
        self._sums[SUMS.index(schema.RETRIES)] += RETRIES.total - self._retries
        self._retries = RETRIES.total
        means = torch.stack([value.detach().double() for value in scalars.values()])
        wait_s = torch.full_like(means[:1], self._wait_s)
        summed = collectives.all_reduce_sum(
            torch.cat([means, self._sums.to(means.device), wait_s])
        ).tolist()
        self._sums = torch.zeros(len(SUMS), dtype=torch.float64)
        shared = {
            name: total / collectives.world_size()
            for name, total in zip(scalars, summed, strict=False)
        }
        return shared | dict(zip((*SUMS, "wait_s"), summed[len(scalars) :], strict=True))

    def _problem(
        self, line: dict[str, Any], misplaced: int, infinite: int
    ) -> PretrainingError | None:
        if misplaced:
            return PretrainingError(self._out_of_order(misplaced))
        if too_many := self.bad.problem():
            return PretrainingError(too_many)
        if line["loss"] != line["loss"] or abs(line["loss"]) == float("inf"):
            return Diverged(
                f"the loss is {line['loss']} at step {line['step']}: lower optim.lr or set"
                " optim.clip_grad_norm"
            )
        return Diverged(_not_finite(infinite)) if infinite else None

    def _write(self, line: dict[str, Any]) -> None:
        self._told = self._monitor.log.remote(line)
        self._lines.append(line)
        self._gauges.show(line)
        if self._board:
            for name, value in line.items():
                if name != "time_s":
                    self._board.add_scalar(name, value, line["step"], line["time_s"])
        if time.monotonic() - self._flushed >= FLUSH_S:
            self._flush()

    def flush(self) -> None:
        """Write what is new and wait for it: before weights are committed, so that their steps are
        in the log."""
        if not self._first:
            return
        self._flush()
        if self._writing:
            self._writing.result()

    def _flush(self) -> None:
        """Send what is new as one more part, in the background; what failed before is raised
        here."""
        if self._writing:
            self._writing.result()
        if self._lines:
            self._writing = self._background.submit(
                self._run.write_metrics, self._attempt, self._part, self._lines
            )
            if self._part % step_log.MANY == 0:
                self._compaction.submit(self._compact)
        self._part = self._part + 1
        self._lines = []
        self._flushed = time.monotonic()

    def _compact(self) -> None:
        with suppress(OSError):  # another time: reading takes longer, and nothing is lost
            self._run.compact_metrics()

    def close(self) -> None:
        """Write what is left."""
        if not self._first:
            return
        self.flush()
        self._background.shutdown()
        self._compaction.shutdown()
        if self._board:
            self._board.close()
            for file in Path(self._folder.name).iterdir():
                uris.write_bytes(self._run.path("tensorboard", file.name), file.read_bytes())
        self._folder.cleanup()
        answer(self._told, None)  # a call that is on its way would end with this process


def _not_finite(steps: int) -> str:
    return f"the gradient was not finite in {steps} steps since the last line: lower optim.lr"


def stage_times(sums: dict[str, float], num_images: int, worker_s: float) -> dict[str, float]:
    """Divide the seconds between two lines among the stages.

    Args:
        sums: Over all ranks and rows: seconds of the data tasks' stages, seconds waited, of which
            transport, retries.
        num_images: Images consumed.
        worker_s: Seconds that passed, times the number of workers.

    Returns:
        `fetch_ms`, `decode_ms`, `crop_ms` of one data task an image and `wait_ms`, `transport_ms`,
        `train_ms` of one training worker an image (`pipelines.stream.stage_times` says what is
        what); `wait_fraction`, the share of the workers' time in the first two of these;
        `storage_retries`.
    """
    waited_s = min(sums["wait_s"], worker_s)
    transport_s = min(sums["transport_s"], waited_s)
    seconds = {name: sums[f"{name}_s"] for name in ("fetch", "decode", "crop")}
    seconds |= {
        "wait": waited_s - transport_s,
        "transport": transport_s,
        "train": worker_s - waited_s,
    }
    times = {f"{name}_ms": 1000 * value / num_images for name, value in seconds.items()}
    return {
        "wait_fraction": waited_s / worker_s,
        **times,
        "storage_retries": round(sums[schema.RETRIES]),
    }


def _memory_gib() -> float:
    """Measure peak memory: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
