"""When a run saves its weights and when it stops: by the clock, on notice, as the driver wishes."""

from collections.abc import Callable
from typing import Any

import pytest
import ray

from jobs.setup.command_line import parse
from jobs.training.run_config import complete_pretrain
from jobs.training.steering import control as controlling
from jobs.training.steering.control import Control
from jobs.training.steering.monitor import start_monitor
from pipelines import ray_internals

pytestmark = pytest.mark.usefixtures("ray_session")


class Clock:
    """A clock that is set by hand, and the nodes that are about to be taken away."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.leaving: frozenset[str] = frozenset()
        monkeypatch.setattr(controlling.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(ray_internals, "nodes_leaving", lambda: self.leaving)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture(scope="module")
def shared_monitor(ray_session: None) -> Any:
    return start_monitor()


@pytest.fixture
def control(clock: Clock, shared_monitor: Any) -> Control:
    words = ["simclr_small", "source.uri=/data", "out=/out", "num_steps=9", "checkpoint.every_s=10"]
    return Control(parse(complete_pretrain, words), shared_monitor)


def verdicts(control: Control, steps: int, each: Callable[[], None] = lambda: None) -> list[bool]:
    """Whether a checkpoint follows each of some steps."""
    found = []
    for _ in range(steps):
        each()
        found.append(control.exchange().checkpoint)
    return found


def test_a_checkpoint_comes_every_so_many_seconds_and_once(control: Control, clock: Clock) -> None:
    def second() -> None:
        clock.now += 1

    found = verdicts(control, 40, second)
    due = [step for step, saved in enumerate(found, start=1) if saved]
    assert due == [11, 21, 31]  # decided at a step, shared with the next


def test_a_node_that_is_about_to_be_taken_away_brings_one_at_once(
    control: Control, clock: Clock
) -> None:
    assert verdicts(control, 3) == [False] * 3
    clock.leaving = frozenset({"a"})
    assert verdicts(control, 5) == [False, True, False, False, False]
    clock.leaving = frozenset({"a", "b"})
    assert verdicts(control, 3) == [False, True, False]
    clock.leaving = frozenset()  # it has gone: nothing is to be saved for it any more
    assert verdicts(control, 3) == [False] * 3


def test_a_wish_to_stop_is_heard(clock: Clock, control: Control, shared_monitor: Any) -> None:
    assert not any(control.exchange().stop for _ in range(3))
    ray.get(shared_monitor.stop.remote())
    while not control.exchange().stop:
        pass
