"""Which failures end a run, and a monitor that outlives its process."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError

from jobs.setup.failures import InputError
from jobs.training.monitor import FailureRule, TooManyFailures, answer, start_monitor
from jobs.training.run_dir import RunDir


class Local:
    """A monitor's `fail` and `log` in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.failures: list[Exception] = []
        self.fail = self.log = self
        monkeypatch.setattr(ray, "get", lambda reference: reference)

    def remote(self, what: Any) -> None:
        if isinstance(what, Exception):
            self.failures.append(what)


def test_only_failures_without_progress_between_them_end_a_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    steps = iter([0, 0, 0, 5, 5, 9, 9, 9])  # committed when the rule begins and at each failure
    monkeypatch.setattr(RunDir, "committed_step", lambda self: next(steps))
    monitor = Local(monkeypatch)
    rule = FailureRule(monitor, RunDir(str(tmp_path)), max_failures=2)
    for _ in range(6):
        rule.after_exception(None, {0: KeyError("x")})
    assert monitor.failures == []
    rule.after_exception(None, {0: KeyError("x")})
    (failure,) = monitor.failures
    assert isinstance(failure, TooManyFailures) and "3 failures in a row" in str(failure)


def test_a_node_that_was_announced_to_leave_does_not_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monitor = Local(monkeypatch)
    rule = FailureRule(monitor, RunDir(str(tmp_path)), max_failures=0)
    announced = ActorDiedError()
    announced._preempted = True  # type: ignore[attr-defined]
    rule.after_exception(None, {0: KeyError("follows from it"), 1: announced})
    assert monitor.failures == []
    rule.after_exception(None, {0: InputError("a.b is 3")})
    assert [str(failure) for failure in monitor.failures] == ["a.b is 3"]


@pytest.mark.usefixtures("ray_session")
def test_a_monitor_whose_process_is_killed_goes_on_beside_the_driver() -> None:
    monitor = start_monitor()
    monitor.stop.remote()
    assert ray.get(monitor.stop_wanted.remote())
    pid = ray.get(monitor.__ray_call__.remote(lambda _: os.getpid()))
    os.kill(pid, signal.SIGKILL)
    assert answer(monitor.stop_wanted.remote(), None) in (False, None)
    monitor.log.remote({"step": 1})
    assert ray.get(monitor.take.remote()) == [{"step": 1}]
    node = ray.get(monitor.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id()))
    assert node == ray.get_runtime_context().get_node_id()
