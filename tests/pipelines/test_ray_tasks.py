"""pipelines.ray_tasks: what dies is started again, and what kills its process is not tried for
ever."""

import ast
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import ray.data
from ray.exceptions import RayError

from jobs.setup.failures import RunError, as_one_line
from pipelines.ray_tasks import MAX_RETRIES, map_in_actors, map_in_tasks

ROOT = Path(__file__).parents[2]
PACKAGES = ("models", "pipelines", "jobs")
Batch = dict[str, np.ndarray]


def die(note: Path) -> None:
    """Kill this process, and leave a letter of it in a file."""
    with note.open("a") as file:
        file.write("x")
    os.kill(os.getpid(), signal.SIGKILL)


class Mortal:
    """Doubles numbers, and dies at its third batch, once."""

    def __init__(self, note: Path) -> None:
        self.note = note
        self.batches = 0

    def __call__(self, batch: Batch) -> Batch:
        self.batches += 1
        if self.batches == 3 and not self.note.exists():
            die(self.note)
        return {"id": 2 * batch["id"]}


class Deadly:
    """Dies of the number 5."""

    def __init__(self, note: Path) -> None:
        self.note = note

    def __call__(self, batch: Batch) -> Batch:
        if 5 in batch["id"]:
            die(self.note)
        return batch


class Stillborn:
    """Dies in its constructor."""

    def __init__(self, note: Path) -> None:
        die(note)

    def __call__(self, batch: Batch) -> Batch:
        return batch


class Unready:
    """Cannot be made, through no fault of its process."""

    def __init__(self) -> None:
        raise ImportError("no kernel")

    def __call__(self, batch: Batch) -> Batch:
        return batch


def numbers() -> ray.data.Dataset:
    return ray.data.range(12, override_num_blocks=6)


@pytest.mark.usefixtures("ray_session")
def test_a_killed_actor_starts_again_and_no_batch_is_lost_or_repeated(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    note = tmp_path / "deaths"
    stream = map_in_actors(numbers(), Mortal, note, size=1, batch_size=2, num_cpus=0.1)
    assert sorted(row["id"] for row in stream.take_all()) == list(range(0, 24, 2))
    assert note.read_text() == "x"
    assert "constructor arguments in the object store" not in capfd.readouterr().err


@pytest.mark.long
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("kind", ["tasks", pytest.param("actors", marks=pytest.mark.slow)])
def test_a_batch_that_always_kills_its_process_ends_the_job_with_one_line(
    tmp_path: Path, kind: str
) -> None:
    note = tmp_path / "deaths"
    if kind == "actors":
        stream = map_in_actors(numbers(), Deadly, note, size=1, batch_size=2, num_cpus=0.1)
    else:
        stream = map_in_tasks(numbers(), Deadly(note).__call__, batch_size=2, num_cpus=0.1)
    with (
        pytest.raises(RunError, match="killed its process 4 times") as raised,
        as_one_line(crashes=True),
    ):
        stream.take_all()
    assert "\n" not in str(raised.value)
    assert len(note.read_text()) == 1 + MAX_RETRIES


@pytest.mark.usefixtures("ray_session")
def test_an_actor_whose_constructor_kills_its_process_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.ray_tasks.MAX_RESTARTS", 1)
    note = tmp_path / "deaths"
    stream = map_in_actors(numbers(), Stillborn, note, size=1, batch_size=2, num_cpus=0.1)
    with pytest.raises(RunError, match="killed its process"), as_one_line(crashes=True):
        stream.take_all()
    assert "x" in note.read_text()


@pytest.mark.usefixtures("ray_session")
def test_an_actor_whose_constructor_raises_has_killed_nothing() -> None:
    stream = map_in_actors(numbers(), Unready, size=1, batch_size=2, num_cpus=0.1)
    with (
        pytest.raises(RunError, match=r"could not start its work: .*no kernel") as raised,
        as_one_line(crashes=True),
    ):
        stream.take_all()
    assert "\n" not in str(raised.value)


def test_a_training_worker_that_died_is_started_again() -> None:
    with pytest.raises(RayError), as_one_line():
        raise ray.exceptions.WorkerCrashedError


def test_no_other_module_gives_ray_data_work_that_is_tried_for_ever() -> None:
    own = ROOT / "pipelines" / "ray_tasks.py"
    for path in (path for name in PACKAGES for path in (ROOT / name).rglob("*.py")):
        called = {
            node.func.attr
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        }
        assert path == own or "map_batches" not in called, path
