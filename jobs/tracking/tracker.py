"""Shows a run to other programs that keep account of runs, from the driver alone.

A tracker is slow or away at times: lines wait for it on a thread of their own, and what it fails at
is said once and costs the run nothing.
"""

import hashlib
import importlib.util
import os
import queue
import re
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, Self

from jobs.setup.failures import InputError
from jobs.tracking.log_config import LogConfig
from jobs.training.run_config import PretrainConfig
from pipelines.ray_internals import first_line
from pipelines.registry import mlflow_client

Line = Mapping[str, Any]
End = Literal["finished", "stopped", "failed"]
ENDS_S = 60.0  # for a tracker to send what waits, once the run has ended
LONGEST = 200  # characters of what a tracker says is wrong
SECRETS = ("WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
_USER_INFO = re.compile(r"://[^/@\s]*@")


class Tracker(Protocol):
    """A program that keeps account of runs, with one run of it open."""

    def log(self, line: Line) -> None:
        """Send one line of the log."""

    def end(self, how: End) -> None:
        """Send what waits, and say how the run ended."""


Open = Callable[[PretrainConfig], Tracker]


def identity(config: PretrainConfig) -> str:
    """Return what tells a run from all others: equal whenever it is resumed."""
    told = f"{config.out.rstrip('/')} {config.fingerprint()}"
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def check_trackers(log: LogConfig) -> None:
    """Make sure, before anything starts, that what a run is to be shown to can be.

    Raises:
        InputError: a package is missing, or a URI carries credentials.
    """
    if log.wandb and importlib.util.find_spec("wandb") is None:
        raise InputError("log.wandb needs Weights & Biases: pip install 'afield[wandb]'")
    if log.mlflow is None:
        return
    try:
        mlflow_client.check_server("log.mlflow", log.mlflow)
        mlflow_client.check_installed("log.mlflow")
    except ValueError as error:
        raise InputError(str(error)) from None


def wanted(log: LogConfig) -> dict[str, Open]:
    """Return what opens each tracker that a run asks for, by the key that asked."""
    found: dict[str, Open] = {}
    if log.wandb:
        from jobs.tracking.wandb_tracker import WandbTracker

        found["log.wandb"] = WandbTracker
    if log.mlflow:
        from jobs.tracking.mlflow_tracker import MlflowTracker

        found["log.mlflow"] = MlflowTracker
    return found


class Trackers:
    """The trackers of a run, while it runs.

    Args:
        config: Of the run.
        opened_by: What opens each of them, by the key that asked.
    """

    def __init__(self, config: PretrainConfig, opened_by: Mapping[str, Open]) -> None:
        self._how: End = "failed"
        self._threads = [_Sender(key, config, opens) for key, opens in opened_by.items()]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._threads:
            thread.put(self._how)
        for thread in self._threads:
            thread.wait()

    def log(self, line: Line) -> None:
        """Send what is a line of the log; whatever else rank 0 says is not."""
        if "step" in line:
            for thread in self._threads:
                thread.put(line)

    def ended(self, *, finished: bool) -> None:
        """Note that the run has not failed."""
        self._how = "finished" if finished else "stopped"


class _Sender(threading.Thread):
    """Opens a tracker and sends it what is put, until the run has ended or something fails."""

    def __init__(self, key: str, config: PretrainConfig, opens: Open) -> None:
        super().__init__(name=f"tracker {key}", daemon=True)
        self._key = key
        self._config = config
        self._opens = opens
        self._waiting: queue.SimpleQueue[Line | End] = queue.SimpleQueue()

    def put(self, what: Line | End) -> None:
        """Let a line wait to be sent, or how the run ended."""
        self._waiting.put(what)

    def wait(self) -> None:
        """Wait until all is sent, but not for long."""
        self.join(ENDS_S)
        if self.is_alive():
            self._say(f"is not done after {ENDS_S:.0f} s and is left")

    def run(self) -> None:
        """Send; what fails is said once, and nothing is sent any more."""
        try:
            tracker = self._opens(self._config)
            while not isinstance(what := self._waiting.get(), str):
                tracker.log(what)
            tracker.end(what)
        except (Exception, SystemExit) as error:
            self._say(f"fails, and the run goes on without ({_told(error)})")

    def _say(self, what: str) -> None:
        print(f"warning: {self._key} {what}", file=sys.stderr, flush=True)


def _told(error: BaseException) -> str:
    """Say in a line what went wrong, without credentials."""
    text = _USER_INFO.sub("://***@", f"{type(error).__name__}: {first_line(str(error))}")
    for name in SECRETS:
        if secret := os.environ.get(name):
            text = text.replace(secret, "***")
    return text[:LONGEST]
