"""The parts of a run's log: numbered by attempt, joined in order, whatever else lies about."""

from pathlib import Path

import pytest

from jobs.training.run_dir import RunDir

FOREIGN = (".DS_Store", "notes.txt", "9-9.jsonl.bak", "0-x.jsonl", "12.jsonl", "Icon\r", "a-b-c")


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run directory in whose log other programs have left their files."""
    folder = tmp_path / "metrics"
    folder.mkdir()
    for name in FOREIGN:
        (folder / name).write_bytes(b"\x00\x01 no log")
    return RunDir(str(tmp_path))


def steps(run: RunDir) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in run.join_metrics()]


def test_every_attempt_has_a_number_of_its_own(run: RunDir) -> None:
    assert [run.claim_attempt() for _ in range(12)] == list(range(12))


def test_files_of_others_are_no_part_of_the_log(run: RunDir) -> None:
    assert not run.has_steps() and run.join_metrics() == []
    run.claim_attempt()
    assert not run.has_steps()  # an attempt that made no step
    run.write_metrics(0, 1, [{"step": 1, "loss": 2.0}])
    assert run.has_steps() and steps(run) == [(1, 2.0)]
    there = {path.name for path in Path(run.path("metrics")).iterdir()}
    assert set(FOREIGN) < there  # they are somebody's


def test_of_a_step_that_was_done_again_the_later_attempt_counts(run: RunDir) -> None:
    for attempt in range(11):  # the tenth sorts behind the second by name
        assert run.claim_attempt() == attempt
        lines = [{"step": step, "loss": float(attempt)} for step in (attempt, attempt + 1)]
        run.write_metrics(attempt, 1, lines)
    assert steps(run) == [*((step, float(step)) for step in range(11)), (11, 10.0)]


def test_parts_of_an_attempt_are_joined_in_order(run: RunDir) -> None:
    run.claim_attempt()
    for part in range(1, 12):
        run.write_metrics(0, part, [{"step": 1, "loss": float(part)}, {"step": part, "loss": 0.5}])
    assert steps(run) == [(1, 11.0), *((step, 0.5) for step in range(2, 12))]


def test_why_a_run_went_back_is_read_as_it_was_written(run: RunDir) -> None:
    assert run.rollback() is None
    run.write_rollback(7, "the spread fell")
    assert run.rollback() == {"step": 7, "reason": "the spread fell"}
