"""What the log of a run sums up, and what it stops a run for."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from jobs.cluster.gauges import COLUMNS
from jobs.setup.command_line import parse
from jobs.training import run_log
from jobs.training.run_config import complete_pretrain
from jobs.training.run_log import SHARES, SUMS, PretrainingError, RunLog, stage_times
from jobs.training.training_job import TrainingJob
from pipelines import schema
from pipelines.media.contract import REASONS
from pipelines.storage import step_log, uris
from pipelines.stream.ledger import Ledger


def test_the_stages_of_a_worker_add_up_to_its_time() -> None:
    sums = dict.fromkeys(SUMS, 0.0) | {
        "fetch_s": 1.0,
        "decode_s": 6.0,
        "crop_s": 3.0,
        "transport_s": 2.0,
        "wait_s": 5.0,
    }
    times = stage_times(sums | {"retries": 2.999}, num_images=1000, worker_s=20.0)
    assert (times["fetch_ms"], times["decode_ms"], times["crop_ms"]) == (1.0, 6.0, 3.0)
    assert (times["transport_ms"], times["wait_ms"], times["train_ms"]) == (2.0, 3.0, 15.0)
    assert times["wait_fraction"] == 0.25 and times["storage_retries"] == 3


def test_clocks_that_differ_never_make_more_transport_than_waiting() -> None:
    times = stage_times(
        dict.fromkeys(SUMS, 0.0) | {"transport_s": 9.0, "wait_s": 1.0}, num_images=10, worker_s=10.0
    )
    assert times["transport_ms"] == pytest.approx(100) and times["wait_ms"] == 0


class Told:
    """A monitor's `log` in this process."""

    def __init__(self) -> None:
        self.log = self
        self.lines: list[dict[str, Any]] = []

    def remote(self, line: dict[str, Any]) -> None:
        self.lines.append(line)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunLog:
    """The log of a run of 4 samples a step, with a line every second step."""
    monkeypatch.setattr(run_log, "answer", lambda reference, otherwise: otherwise)
    words = ["simclr_small", "source.uri=/data", f"out={tmp_path}", "num_steps=9"]
    words += ["global_batch_size=4", "log.every_steps=2", "log.tensorboard=false"]
    config = parse(complete_pretrain, words)
    what = {"num_steps": 9, "num_rows": 100, "epoch_samples": 100, "threads": 1}
    job = TrainingJob(
        config,
        photometric_done=True,
        manifest="",
        ledger=Ledger(0, ()),
        monitor=Told(),
        **what,
    )
    return RunLog(job, 0, 0)


def test_the_parts_of_a_long_log_are_put_together_while_it_is_written(
    log: RunLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_log, "FLUSH_S", 0.0)
    monkeypatch.setattr(step_log, "MANY", 8)
    for number in range(1, 35):
        step(log, number, batch([4 * (number - 1) + place for place in range(4)]))
        log.flush()
    log.close()
    metrics = log._run.path("metrics")
    assert len(uris.list_names(metrics)) < 17
    assert [line["step"] for line in step_log.read(metrics)] == list(range(2, 35, 2))


def batch(positions: list[int], reasons: list[int] | None = None) -> dict[str, Tensor]:
    """The columns of a micro-batch that the log looks at."""
    number = len(positions)
    columns = {name: torch.full((number,), 0.5) for name in SHARES}
    columns[schema.POSITION] = torch.tensor(positions)
    columns[schema.REASON] = torch.tensor(reasons or [0] * number, dtype=torch.uint8)
    columns[schema.READY_AT] = torch.zeros(number, dtype=torch.float64)
    return columns


def step(
    log: RunLog, number: int, columns: dict[str, Tensor], loss: float = 1.0, norm: float = 1.0
) -> None:
    outputs = {"loss": torch.tensor(loss), "embedding": torch.randn(4, 8)}
    log.saw(columns, 4 * (number - 1), outputs)
    log.step(number, 0.1, torch.tensor(norm), {}, final=False)


def test_a_line_sums_up_the_steps_since_the_last(log: RunLog) -> None:
    step(log, 1, batch([0, 1, 2, 3], [0, 1 + REASONS.index("truncated"), 0, 0]))
    assert log.last_line == {}
    step(log, 2, batch([4, 5, 6, 7], [0, 0, 0, 1 + REASONS.index("empty")]))
    line = log.last_line
    assert (line["step"], line["samples"], line["loss"]) == (2, 8, 1.0)
    assert (line["bad_samples"], line["bad_truncated"], line["bad_empty"]) == (2, 1, 1)
    assert set(COLUMNS) - set(line) == {
        *("health_rankme", "health_variation", "health_spread")  # of a look
    }
    assert line["storage_retries"] == 4  # half a one in each of eight rows
    step(log, 3, batch([8, 9, 10, 11]))
    step(log, 4, batch([12, 13, 14, 15]))
    assert log.last_line["bad_samples"] == 2


@pytest.mark.parametrize("positions", [[4, 5, 7, 6], [5, 6, 7, 8], [0, 1, 2, 3]])
def test_samples_of_other_steps_end_the_run(log: RunLog, positions: list[int]) -> None:
    step(log, 1, batch([0, 1, 2, 3]))
    misplaced = sum(a != b for a, b in zip(positions, [4, 5, 6, 7], strict=True))
    with pytest.raises(PretrainingError, match=rf"^{misplaced} samples since the last line were"):
        step(log, 2, batch(positions))


def test_samples_of_other_steps_are_never_committed(log: RunLog) -> None:
    log.check()
    step(log, 1, batch([0, 1, 3, 3]))
    with pytest.raises(PretrainingError, match=r"^1 samples since the last line were those of"):
        log.check()  # before a checkpoint, though no line is due


@pytest.mark.parametrize("norm", [float("nan"), float("inf")])
def test_a_gradient_that_is_no_number_ends_the_run_and_is_never_committed(
    log: RunLog, norm: float
) -> None:
    step(log, 1, batch([0, 1, 2, 3]), norm=norm)
    with pytest.raises(PretrainingError, match="gradient was not finite in 1 steps"):
        log.check()
    with pytest.raises(PretrainingError, match="gradient was not finite in 1 steps"):
        step(log, 2, batch([4, 5, 6, 7]))


def test_a_loss_that_is_no_number_ends_the_run(log: RunLog) -> None:
    step(log, 1, batch([0, 1, 2, 3]))
    with pytest.raises(PretrainingError, match=r"the loss is nan at step 2: lower optim\.lr"):
        step(log, 2, batch([4, 5, 6, 7]), loss=float("nan"))


def test_too_many_bad_samples_end_the_run(log: RunLog) -> None:
    bad = [1 + REASONS.index("corrupt"), 0, 0, 0]

    def train() -> None:
        for number in range(1, 40):
            first = 4 * (number - 1)
            step(log, number, batch(list(range(first, first + 4)), bad))

    with pytest.raises(PretrainingError, match=r"^26 of 104 samples \(25%\) are bad"):
        train()  # of fewer than 100 nothing is said, and every second step has a line
