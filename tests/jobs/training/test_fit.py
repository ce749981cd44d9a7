"""What a person sees of a run while it trains."""

import asyncio
import os
import signal
import threading
from types import SimpleNamespace

import pytest
import ray
from ray import cloudpickle

from jobs.training import fit
from jobs.training.fit import StepProgress, step_line
from jobs.training.steering.monitor import start_monitor

LINE = {
    "step": 1200,
    "loss": 5.8123,
    "lr": 0.21,
    "feature_std": 0.031,
    "rankme": 212.0,
    "images_per_s": 9412.0,
    "wait_fraction": 0.03,
    "memory_gib": 31.2,
}


def test_a_step_line_fits_and_gives_up_its_columns_in_the_stated_order() -> None:
    whole = step_line(LINE, 250_000)
    assert whole == (
        "step   1200/250000  loss 5.8123  lr 2.1e-01  std 0.031  rank 212  img/s 9,412  wait 3%  "
        "mem 31.2 GiB"
    )
    assert step_line(LINE, 250_000, width=len(whole)) == whole
    assert step_line(LINE, 250_000, width=80) == (
        "step   1200/250000  loss 5.8123  lr 2.1e-01  std 0.031  img/s 9,412  wait 3%"
    )
    for width in range(30, len(whole) + 1):
        assert len(step_line(LINE, 250_000, width)) <= max(width, 31)


def test_starts_say_where_they_begin(capsys: pytest.CaptureFixture[str]) -> None:
    progress = StepProgress(100, 0)
    for step, workers in ((0, 1), (0, 2), (40, 2)):
        progress.show({"started_at": step, "workers": workers, "attempt": 0})
    assert capsys.readouterr().err.splitlines() == [
        "training on 1 worker",
        "beginning again on 2 workers",
        "going on from step 40 on 2 workers",
    ]


def test_what_takes_longer_than_a_moment_is_named_every_ten_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(fit.time, "monotonic", lambda: now[0])
    progress = StepProgress(100, 0, lambda: "room for 1 x (1 CPU)")

    def tick(at: float) -> None:
        now[0] = at
        progress.tick()

    progress.waits("starting the training workers")
    tick(0)
    progress.show({"waiting": "building the network"})
    tick(1)
    progress.show({"waiting": "reading the first batch"})
    for at in (9, 9, 18, 19):
        tick(at)
    progress.show({"waiting": None})
    progress.show(LINE)
    assert not progress.is_idle
    tick(28)
    progress.show({"waiting": "starting the training workers again"})
    tick(102)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["reading the first batch ..."] * 2
    assert lines[3:] == ["starting the training workers again ... waiting for room for 1 x (1 CPU)"]


def test_a_run_says_that_no_line_comes_once_it_takes_much_longer_than_the_one_before(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(fit.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(fit, "taken_by_others", lambda: "room for 1 x (1 CPU)")
    progress = StepProgress(100, 0)
    progress.show({"waiting": None})
    for at in range(200):
        now[0] = at
        if at in (8, 16):
            progress.show(LINE)
        progress.tick()
    lines = [line for line in capsys.readouterr().err.splitlines() if "step" not in line]
    assert lines[0] == "training, nothing new for 16 s ... waiting for room for 1 x (1 CPU)"
    assert lines[1].startswith("training, nothing new for 26 s") and len(lines) == 17


class Controller:
    """Runs until it is told to end, as Ray Train's does that waits for its workers."""

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def abort(self) -> None:
        ray.actor.exit_actor()


@pytest.mark.usefixtures("ray_session")
@pytest.mark.timeout(60)
def test_a_stop_ends_a_run_at_once_that_has_not_trained_since_its_workers_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fit, "ENDS_S", 3.0)  # an actor of two methods at once outlives `abort`
    controller = ray.remote(num_cpus=0)(Controller).remote()
    monitor = start_monitor()

    def starts_for_ever() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        monitor.meet.remote(cloudpickle.dumps(controller))
        ray.get(controller.run.remote())

    held = SimpleNamespace(check=lambda: None)
    trainer = SimpleNamespace(fit=starts_for_ever)
    progress = StepProgress(100, 0)
    fit._watch(trainer, monitor, held, progress, lambda _: None)  # type: ignore[arg-type]
    assert "fit" not in [thread.name for thread in threading.enumerate()]
