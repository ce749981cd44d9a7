"""Measures a training worker while it runs: lines for people, parts in the run directory, TensorBoard."""

import resource
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import ray
import torch
from torch import Tensor

from jobs.config import PretrainConfig
from jobs.run_dir import RunDir
from models import collectives, health
from pipelines import quarantine, schema, storage
from pipelines.decode import REASONS

Item = TypeVar("Item")
FLUSH_S = 15.0


class PretrainingError(RuntimeError):
    """The run must not go on, and starting its workers again would not help."""


class RunLog:
    """Sums up the steps between two log lines over all ranks; rank 0 writes.

    Args:
        config: The run's configuration.
        job: As in `train_worker`.
        step: Steps done before.
        attempt: Number of this start of the workers.
    """

    def __init__(self, config: PretrainConfig, job: dict[str, Any], step: int, attempt: int) -> None:
        self.last_line: dict[str, Any] = {}
        self._config = config
        self._run = RunDir(job["run"])
        self._monitor = job["monitor"]
        self._logged_step = step
        self._started = time.monotonic()
        self._wait_s = 0.0
        self._attempt = attempt
        self._counts = torch.zeros(1 + len(REASONS), dtype=torch.int64)  # misplaced samples, bad ones by reason
        self._bad = Counter[str]()  # by reason, since this attempt began
        self._samples = 0
        self._outputs: dict[str, Tensor] = {}
        self._first = collectives.rank() == 0
        if self._first:
            self._open()
            self._monitor.log.remote(
                {"started_at": step, "attempt": self._attempt, "workers": collectives.world_size()}
            )

    def _open(self) -> None:
        from torch.utils.tensorboard import SummaryWriter  # here, as only rank 0 needs it

        self._part, self._lines = 1, list[dict[str, Any]]()
        self._flushed = time.monotonic()
        self._writing: Future[None] | None = None
        self._background = ThreadPoolExecutor(1, thread_name_prefix="metrics")
        self._folder = tempfile.TemporaryDirectory(prefix="afield-tensorboard-")
        self._board = SummaryWriter(self._folder.name) if self._config.log.tensorboard else None

    def timed(self, batches: Iterator[Item]) -> Iterator[Item]:
        """Pass batches on, counting the time waited for them; the first one's is start-up, not waiting."""
        first = True
        while True:
            before = time.monotonic()
            try:
                batch = next(batches)
            except StopIteration:
                return
            if first:
                self._started, first = time.monotonic(), False
            else:
                self._wait_s += time.monotonic() - before
            yield batch

    def saw(self, columns: dict[str, Tensor], position: int, outputs: dict[str, Tensor]) -> None:
        """Take note of one micro-batch, due to begin at a plan position; nothing is waited for."""
        found, reason = columns[schema.POSITION], columns[schema.REASON]
        due = torch.arange(position, position + len(found), device=found.device)
        kinds = torch.arange(1, 1 + len(REASONS), device=found.device)
        bad = (reason[:, None] == kinds).sum(0)  # bincount would wait for the device
        self._counts = self._counts.to(found.device) + torch.cat([(found != due).sum()[None], bad])
        self._outputs = outputs

    def check_order(self) -> None:
        """Make sure that this worker's steps saw the samples that are theirs; before weights are called committed.

        Raises:
            PretrainingError: they did not.
        """
        if misplaced := int(self._counts[1]):
            raise PretrainingError(self._out_of_order(misplaced))

    def _out_of_order(self, misplaced: int) -> str:
        return f"{misplaced} samples since the last line were those of other steps than theirs: please report this"

    def step(self, step: int, lr: float, grad_norm: Tensor, *, final: bool) -> None:
        """Take note of a step; every so many of them all ranks agree on a line, which rank 0 sends.

        Raises:
            PretrainingError: the run must not go on; the same on every rank.
        """
        if step % self._config.log.every_steps and not final:
            return
        shared = self._reduce(grad_norm)
        now = time.monotonic()
        elapsed, steps = now - self._started, step - self._logged_step
        self._samples += steps * self._config.global_batch_size
        self._bad.update({reason: int(count) for reason in REASONS if (count := shared.pop(reason))})
        misplaced = int(shared.pop("misplaced"))
        line = {
            "step": step,
            "samples": step * self._config.global_batch_size,
            "lr": lr,
            **shared,
            "images_per_s": steps * self._config.global_batch_size / elapsed,
            "wait_fraction": min(1.0, self._wait_s / elapsed),
            "memory_gib": _memory_gib(),
            "bad_samples": self._bad.total(),
            **{f"bad_{reason}": count for reason, count in self._bad.items()},
        }
        self._started, self._logged_step, self._wait_s = now, step, 0.0
        if self._first:
            self._write(line)
        self.last_line = line
        if problem := self._problem(line, misplaced):
            self.close(stopped_at=None)
            raise PretrainingError(problem)

    def _reduce(self, grad_norm: Tensor) -> dict[str, float]:
        """Average the scalar outputs over ranks and sum up bad samples; one all-reduce."""
        embedding = self._outputs["embedding"].float()
        scalars = {name: value for name, value in self._outputs.items() if value.ndim == 0}
        scalars |= {
            "feature_std": health.feature_std(embedding),
            "rankme": health.rankme(embedding),
            "grad_norm": grad_norm,
        }
        values = torch.stack([value.detach().double() for value in scalars.values()] + list(self._counts.double()))
        summed = collectives.all_reduce_sum(values).tolist()
        self._counts = torch.zeros_like(self._counts)
        shared = {name: total / collectives.world_size() for name, total in zip(scalars, summed, strict=False)}
        return shared | dict(zip(("misplaced", *REASONS), summed[len(scalars) :], strict=True))

    def _problem(self, line: dict[str, Any], misplaced: int) -> str | None:
        if misplaced:
            return self._out_of_order(misplaced)
        fraction = self._bad.total() / self._samples
        if self._samples >= quarantine.MIN_SAMPLES_TO_JUDGE and fraction > self._config.source.max_bad_fraction:
            return (
                f"{quarantine.summary(self._bad, self._bad.total(), self._samples)}, more than source.max_bad_fraction="
                f"{self._config.source.max_bad_fraction}: "
                f"see {self._run.path('quarantine')} for the files and reasons"
            )
        if line["loss"] != line["loss"] or abs(line["loss"]) == float("inf"):
            return f"the loss is {line['loss']} at step {line['step']}: lower optim.lr or set optim.clip_grad_norm"
        return None

    def _write(self, line: dict[str, Any]) -> None:
        self._monitor.log.remote(line)
        self._lines.append(line)
        if self._board:
            for name, value in line.items():
                self._board.add_scalar(name, value, line["step"])
        if time.monotonic() - self._flushed >= FLUSH_S:
            self._flush()

    def _flush(self) -> None:
        """Send what is new as one more part, in the background; what failed before is raised here."""
        if self._writing:
            self._writing.result()
        if self._lines:
            self._writing = self._background.submit(self._run.write_metrics, self._attempt, self._part, self._lines)
        self._part, self._lines, self._flushed = self._part + 1, [], time.monotonic()

    def close(self, *, stopped_at: int | None) -> None:
        """Write what is left, and tell the driver at which step the run was stopped, if it was."""
        if not self._first:
            return
        self._flush()
        self._flush()
        self._background.shutdown()
        if self._board:
            self._board.close()
            for file in Path(self._folder.name).iterdir():
                storage.write_bytes(self._run.path("tensorboard", file.name), file.read_bytes())
        self._folder.cleanup()
        ray.get(self._monitor.end.remote(stopped_at))


def _memory_gib() -> float:
    """Peak memory: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
