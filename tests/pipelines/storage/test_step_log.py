"""The log in parts: put together it says what it said, and of a step the later attempt counts."""

from pathlib import Path
from typing import Any

import pytest

from pipelines.storage import step_log, uris


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A log of which some four neighbours become one."""
    monkeypatch.setattr(step_log, "MANY", 4)
    return str(tmp_path / "metrics")


def add(folder: str, attempt: int, numbers: range, loss: float | None = None) -> None:
    """Write parts of one line: part 3 is that of step 3."""
    for number in numbers:
        lines = [{"step": number, "loss": loss or float(attempt)}] if number else []
        step_log.write(folder, attempt, number, lines)


def losses(folder: str) -> dict[int, Any]:
    return {line["step"]: line["loss"] for line in step_log.read(folder)}


def test_parts_become_few_and_say_what_they_said(folder: str) -> None:
    add(folder, 0, range(30))
    before = step_log.read(folder)
    step_log.compact(folder)
    assert step_log.read(folder) == before and len(before) == 29
    assert len(uris.list_names(folder)) < 8
    add(folder, 0, range(30, 40))
    step_log.compact(folder)
    assert losses(folder) == dict.fromkeys(range(1, 40), 0.0)


def test_steps_that_were_done_again_stay_those_of_the_later_attempt(folder: str) -> None:
    add(folder, 0, range(12))
    add(folder, 1, range(6, 11))
    add(folder, 10, range(8, 9))
    expected = dict.fromkeys(range(1, 12), 0.0) | dict.fromkeys(range(6, 11), 1.0) | {8: 10.0}
    for _ in range(3):
        assert losses(folder) == expected
        step_log.compact(folder)


def test_a_killed_compaction_loses_and_doubles_nothing(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(folder, 0, range(1, 7))
    add(folder, 1, range(3, 9))
    before = step_log.read(folder)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(step_log, "remove_many", die)
        with pytest.raises(KeyboardInterrupt):
            step_log.compact(folder)
    assert len(uris.list_names(folder)) == 12 + 1 and step_log.read(folder) == before
    add(folder, 2, range(4, 6))
    later = {line["step"]: line["loss"] for line in before} | {4: 2.0, 5: 2.0}
    assert losses(folder) == later
    step_log.compact(folder)
    assert losses(folder) == later and len(uris.list_names(folder)) < 8


def test_a_part_of_an_attempt_that_was_thought_dead_changes_no_later_step(folder: str) -> None:
    add(folder, 0, range(1, 4))
    add(folder, 1, range(3, 6))
    step_log.compact(folder)
    step_log.write(folder, 0, 4, [{"step": 5, "loss": 0.5}, {"step": 9, "loss": 0.5}])
    assert losses(folder) == {1: 0.0, 2: 0.0, 3: 1.0, 4: 1.0, 5: 1.0, 9: 0.5}


def test_large_parts_are_left_alone(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_log, "LARGE", 4)
    add(folder, 0, range(1, 33))
    step_log.compact(folder)
    names = uris.list_names(folder)
    assert len(names) == 8
    step_log.compact(folder)
    assert uris.list_names(folder) == names


def test_attempts_that_made_no_step_leave_no_line(folder: str) -> None:
    for attempt in range(5):
        step_log.write(folder, attempt, 0, [])
    step_log.compact(folder)
    (joined, single) = step_log.parts(folder)
    assert joined.name == "0-0_3-0_0.jsonl" and single.name == "4-0.jsonl"
    assert not joined.has_lines() and not single.has_lines()
    add(folder, 5, range(4))
    step_log.compact(folder)
    assert [part.last for part in step_log.parts(folder)][-1] == (5, 3)
    assert any(part.has_lines() for part in step_log.parts(folder))
