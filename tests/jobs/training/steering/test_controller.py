"""What lives in Ray Train's controller: which failures end a run, and data by reference."""

import copy
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.data import Dataset
from ray.exceptions import ActorDiedError
from ray.train import DataConfig

from jobs.setup.failures import InputError
from jobs.training import checkpoints
from jobs.training.steering.controller import DataByReference, FailureRule, TooManyFailures


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
    monkeypatch.setattr(checkpoints, "committed_step", lambda run: next(steps))
    monitor = Local(monkeypatch)
    rule = FailureRule(monitor, str(tmp_path), max_failures=2)
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
    rule = FailureRule(monitor, str(tmp_path), max_failures=0)
    announced = ActorDiedError()
    announced._preempted = True  # type: ignore[attr-defined]
    rule.after_exception(None, {0: KeyError("follows from it"), 1: announced})
    assert monitor.failures == []
    rule.after_exception(None, {0: InputError("a.b is 3")})
    assert [str(failure) for failure in monitor.failures] == ["a.b is 3"]


class Told(DataConfig):
    """Says what it was asked for."""

    def configure(self, datasets: dict[str, Dataset], world_size: int, *_: Any, **__: Any) -> Any:
        return [{"world_size": world_size}] * world_size


@pytest.mark.usefixtures("ray_session")
def test_data_by_reference_does_what_the_data_does_in_a_copy_too() -> None:
    data = copy.deepcopy(DataByReference(Told()))
    assert data.configure({}, 2, None, None) == [{"world_size": 2}] * 2  # type: ignore[comparison-overlap]
