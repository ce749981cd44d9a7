"""The quarantine table: what is written is read, each sample once an epoch, whatever lies about and
whoever puts parts together."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines import schema
from pipelines.media.contract import BadSample, Reason
from pipelines.storage import uris
from pipelines.stream import quarantine


def row(sample: int, epoch: int, reason: Reason = "corrupt") -> dict[str, Any]:
    where = {schema.SAMPLE_ID: sample, schema.URI: f"/{sample}.jpg"}
    where |= {schema.OFFSET: 0, schema.LENGTH: 9, schema.MEMBER: None}
    problem = BadSample(reason, "it is")
    return quarantine.bad_row(where, problem, stage="decode", epoch=epoch, run="test")


def ids(folder: str) -> list[int]:
    return [row[schema.SAMPLE_ID] for row in quarantine.read(folder)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A quarantine of 25 parts, of which some ten become one, and of these three."""
    monkeypatch.setattr(quarantine, "MANY", 10)
    monkeypatch.setattr(quarantine, "MANY_JOINED", 3)
    made = str(tmp_path / "quarantine")
    for item in range(25):
        quarantine.write(made, f"{item:03d}", [row(item, 0), row(100 + item, 0, "empty")])
    return made


def test_each_sample_is_there_once_an_epoch_in_order(tmp_path: Path) -> None:
    folder = str(tmp_path / "quarantine")
    assert quarantine.read(folder) == [] and quarantine.summarise(folder).num_samples == 0
    quarantine.write(folder, "a", [row(2, 0), row(1, 0)])
    quarantine.write(folder, "b", [row(2, 0), row(2, 1, "empty")])
    quarantine.write(folder, "c", [])
    rows = quarantine.read(folder)
    assert [(row[schema.SAMPLE_ID], row[schema.EPOCH]) for row in rows] == [(1, 0), (2, 0), (2, 1)]
    summary = quarantine.summarise(folder, examples=1)
    assert summary.reasons == {"corrupt": 2, "empty": 1} and summary.num_samples == 2
    assert summary.examples == {"corrupt": [("/1.jpg", "it is")], "empty": [("/2.jpg", "it is")]}


def test_members_of_a_shard_are_in_the_order_of_the_shard(tmp_path: Path) -> None:
    members = [row(sample, 0) | {schema.URI: "/a.tar"} for sample in (5, 3, 4, 1)]
    rows = [member | {schema.OFFSET: place} for place, member in enumerate(members)]
    quarantine.write(str(tmp_path), "a", rows)
    assert ids(str(tmp_path)) == [5, 3, 4, 1]


def test_the_newest_word_on_a_sample_counts(tmp_path: Path) -> None:
    folder = str(tmp_path)
    newer = row(1, 0, "missing")
    quarantine.write(folder, "b", [row(1, 0, "corrupt") | {"time": 1}])
    quarantine.write(folder, "a", [newer])
    assert quarantine.summarise(folder).reasons == {"missing": 1}
    quarantine.compact(folder, least=2)
    assert quarantine.summarise(folder).reasons == {"missing": 1}


def test_files_of_others_are_no_part_of_it(tmp_path: Path) -> None:
    folder = str(tmp_path)
    quarantine.write(folder, "a", [row(1, 0)])
    quarantine.write(folder, "b", [row(2, 0)])
    foreign = {".DS_Store", "._a.parquet", "notes.txt", "a.parquet.bak", "joined-1"}
    for name in foreign:
        (tmp_path / name).write_bytes(b"\x00 no table")
    assert ids(folder) == [1, 2]
    quarantine.compact(folder, least=2)
    assert ids(folder) == [1, 2]
    assert foreign < {path.name for path in tmp_path.iterdir()}  # they are somebody's


def test_a_task_that_is_run_again_writes_the_same_part_again(tmp_path: Path) -> None:
    folder = str(tmp_path)
    for _ in range(2):
        quarantine.write(folder, "a", [row(1, 0)])
    assert len(uris.list_names(folder)) == 1
    quarantine.write(folder, "a", [row(2, 0)])  # what the next block of the item holds
    assert ids(folder) == [1, 2]


def test_parts_become_few_and_hold_what_they_held(folder: str) -> None:
    before = quarantine.read(folder)
    quarantine.compact(folder)
    assert len(uris.list_names(folder)) == 2 + 5  # too few to be put together
    assert quarantine.read(folder) == before
    for item in range(25, 35):
        quarantine.write(folder, f"{item:03d}", [row(item, 0)])
    quarantine.compact(folder)
    quarantine.compact(folder, least=5)
    rows = [int(name.split("-")[1]) for name in uris.list_names(folder)]
    assert rows == [5, 55]  # those of three joined parts are one by now
    assert quarantine.summarise(folder).reasons == {"corrupt": 35, "empty": 25}


def test_a_part_that_is_written_again_after_it_was_put_away_doubles_nothing(folder: str) -> None:
    quarantine.compact(folder)
    before = quarantine.summarise(folder)
    quarantine.write(folder, "003", [row(3, 0), row(103, 0, "empty")])
    assert quarantine.summarise(folder) == before


def test_parts_are_put_together_while_a_job_runs_and_at_its_end(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "EVERY_S", 0.01)
    monkeypatch.setattr(quarantine, "FEW", 2)
    with quarantine.compacting(folder):
        while len(uris.list_names(folder)) > 7:
            pass
    assert len(uris.list_names(folder)) <= 2
    assert quarantine.summarise(folder).reasons == {"corrupt": 25, "empty": 25}


KILLED = """
import os, signal, sys
from pipelines.storage import uris
from pipelines.stream import quarantine

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def die_after_some(uri, count=[]):
    count.append(os.unlink(uri))
    if len(count) == 4:
        die()

if sys.argv[2] == "unwritten":
    os.replace = die
elif sys.argv[2] == "written":
    quarantine.remove_many = die
else:
    uris.remove_file = die_after_some
quarantine.MANY = 10
quarantine.compact(sys.argv[1])
"""


@pytest.mark.parametrize("instant", ["unwritten", "written", "half deleted"])
def test_a_killed_compaction_loses_and_doubles_nothing(folder: str, instant: str) -> None:
    before = quarantine.read(folder)
    killed = subprocess.run([sys.executable, "-c", KILLED, folder, instant], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert quarantine.read(folder) == before
    assert quarantine.summarise(folder).reasons == {"corrupt": 25, "empty": 25}
    quarantine.compact(folder, least=1)
    assert len(uris.list_names(folder)) <= 4 and quarantine.read(folder) == before
