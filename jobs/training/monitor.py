"""What a driver sees of its training workers while they run, and how it asks them to stop."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import ray
from ray.train import UserCallback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jobs.setup.failures import Failure, failure_of


class Monitor:
    """An actor that carries log lines from rank 0 to the driver and the wish to stop the other way."""

    def __init__(self) -> None:
        self._lines: list[dict[str, Any]] = []
        self._stop = False
        self._stopped_at: int | None = None
        self._failure: Failure | None = None

    def log(self, line: dict[str, Any] | None) -> bool:
        """Take a line, None for a mere heartbeat; tell whether to stop."""
        if line is not None:
            self._lines.append(line)
        return self._stop

    def stop(self) -> None:
        """Ask the workers to checkpoint and end."""
        self._stop = True

    def end(self, stopped_at: int | None) -> None:
        """Note at which step the workers stopped because they were asked to."""
        self._stopped_at = stopped_at

    def stopped_at(self) -> int | None:
        """Step at which the workers stopped on request, None if they did not."""
        return self._stopped_at

    def fail(self, failure: Failure) -> None:
        """Note a failure that starting the workers again would not mend; the first one counts."""
        self._failure = self._failure or failure

    def failure(self) -> Failure | None:
        """What failed for good, None so far."""
        return self._failure

    def take(self) -> list[dict[str, Any]]:
        """Hand over the lines since the last call."""
        lines, self._lines = self._lines, []
        return lines


class TellMonitor(UserCallback):
    """Tells the driver's monitor of a lasting failure of any worker, wherever it came up: in the loop, its data, or an
    upload in the background. The driver then stops the run, which Ray Train would start again."""

    def __init__(self, monitor: Any) -> None:
        self._monitor = monitor

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Look at what each worker raised, before Ray Train decides."""
        for error in worker_exceptions.values():
            if failure := failure_of(error):
                ray.get(self._monitor.fail.remote(failure))


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """Turn SIGINT and SIGTERM into an event; a second signal interrupts at once."""
    wanted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield wanted  # signals reach the main thread only; whoever owns it decides
        return

    def note(number: int, frame: FrameType | None) -> None:
        if wanted.is_set():
            raise KeyboardInterrupt
        wanted.set()
        print("stopping: waiting for a checkpoint (again to stop at once)", file=sys.stderr)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wanted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def step_line(line: dict[str, Any], num_steps: int) -> str:
    """Format one log line with fixed columns."""
    return (
        f"step {line['step']:>{len(str(num_steps))}}/{num_steps}  loss {line['loss']:.4f}  lr {line['lr']:.1e}  "
        f"std {line['feature_std']:.3f}  rank {line['rankme']:.0f}  img/s {line['images_per_s']:,.0f}  "
        f"wait {line['wait_fraction']:.0%}  mem {line['memory_gib']:.1f} GiB"
    )


class StepProgress:
    """Prints log lines to stderr, and a live bar where stderr is a terminal.

    Args:
        num_steps: Optimiser steps of the whole run.
        done: Steps done before.
    """

    def __init__(self, num_steps: int, done: int) -> None:
        columns = (
            TextColumn("pretraining"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        console = Console(stderr=True, soft_wrap=True, highlight=False)
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task("steps", total=num_steps, completed=done)
        self._num_steps = num_steps

    def __enter__(self) -> "StepProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, line: dict[str, Any]) -> None:
        """Show one log line, a warning, or that workers have started (again)."""
        if "warning" in line:
            self._bar.console.print(f"warning: {line['warning']}")
            return
        if "started_at" in line:
            self._bar.console.print(
                f"attempt {line['attempt']}: {line['workers']} workers go on from step {line['started_at']}"
            )
            return
        self._bar.console.print(step_line(line, self._num_steps))
        self._bar.update(self._task, completed=line["step"])
