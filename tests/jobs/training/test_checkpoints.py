"""Which checkpoint a run goes on from, also when a machine died while it wrote one."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from jobs.training import checkpoints
from pipelines import ray_internals
from pipelines.stream.ledger import Ledger


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Checkpoints after 10, 20 and 30 steps, of which Train has committed the first two."""
    for step in (10, 20, 30):
        place = tmp_path / checkpoints.name_of(step)
        place.mkdir()
        checkpoints.write(
            str(place), {"step": step, "method": {"w": torch.zeros(100)}}, ledger(step)
        )
    snapshot(tmp_path, 10, 20)
    return tmp_path


def ledger(step: int) -> Ledger:
    return Ledger(0, ()).onto(1, 1).at(step * 32)


def snapshot(folder: Path, *steps: int) -> None:
    """Record checkpoints as Train does: the last one is the one to restore."""
    last = checkpoints.name_of(steps[-1])
    ray_internals.write_snapshot(str(folder), last, {"step": steps[-1]})
    path = folder / ray_internals.SNAPSHOT
    values = json.loads(path.read_text())
    results = [{"checkpoint_dir_name": checkpoints.name_of(s), "metrics": {}} for s in steps]
    path.write_text(json.dumps(values | {"checkpoint_results": results}))


def mended(folder: Path, capsys: pytest.CaptureFixture[str]) -> str | None:
    """Return what Train would restore after mending; nothing may have been deleted."""
    checkpoints.mend(str(folder))
    snapshot = ray_internals.read_snapshot(str(folder))
    assert snapshot is not None
    for name in snapshot.names:
        assert (folder / name / "state.pt").exists()
    assert sorted(path.name for path in folder.glob("step-*")) == [
        checkpoints.name_of(s) for s in (10, 20, 30)
    ]
    assert checkpoints.committed(str(folder)) == snapshot.latest
    torn = snapshot.latest != checkpoints.name_of(20)
    assert ("is torn" in capsys.readouterr().err) == torn
    return snapshot.latest


def test_an_orphan_is_not_restored(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mended(folder, capsys) == checkpoints.name_of(20)
    assert checkpoints.ledger(str(folder)) == ledger(20)


def test_a_torn_snapshot_gives_way_to_the_newest_whole_checkpoint(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / ray_internals.SNAPSHOT
    path.write_text(path.read_text()[:50])
    assert checkpoints.committed(str(folder)) is None
    assert mended(folder, capsys) == checkpoints.name_of(30)
    assert checkpoints.ledger(str(folder)) == ledger(30)


@pytest.mark.parametrize("file", ["state.pt", "contents.json"])
def test_a_torn_checkpoint_gives_way_to_one_that_is_whole(
    file: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (20, 30):
        path = folder / checkpoints.name_of(step) / file
        path.write_bytes(path.read_bytes()[:-5])
    assert mended(folder, capsys) == checkpoints.name_of(10)


def test_without_a_whole_checkpoint_a_run_begins_anew(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in folder.glob("step-*/state.pt"):
        path.write_bytes(b"")
    assert mended(folder, capsys) is None
    assert checkpoints.ledger(str(folder)) == Ledger(0, ())


def test_copies_that_lie_beside_the_checkpoints_are_none(folder: Path) -> None:
    for name in ("step-000000010 (copy)", "step-old", ".DS_Store"):
        shutil.copytree(folder / checkpoints.name_of(30), folder / name)
    assert checkpoints.whole_steps(str(folder)) == [10, 20, 30]
    (folder / checkpoints.name_of(20) / "state.pt").write_bytes(b"")
    checkpoints.mend(str(folder))
    assert checkpoints.committed(str(folder)) == checkpoints.name_of(30)


def test_a_run_without_checkpoints_is_left_alone(tmp_path: Path) -> None:
    checkpoints.mend(str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()
