"""The quarantine table: what is written is read, each sample once an epoch, whatever lies about."""

from pathlib import Path
from typing import Any

from pipelines import schema
from pipelines.media.contract import BadSample, Reason
from pipelines.stream import quarantine


def row(sample: int, epoch: int, reason: Reason = "corrupt") -> dict[str, Any]:
    where = {schema.SAMPLE_ID: sample, schema.URI: f"/{sample}.jpg"}
    where |= {schema.OFFSET: 0, schema.LENGTH: 9, schema.MEMBER: None}
    problem = BadSample(reason, "it is")
    return quarantine.bad_row(where, problem, stage="decode", epoch=epoch, run="test")


def test_each_sample_is_there_once_an_epoch_in_order(tmp_path: Path) -> None:
    folder = str(tmp_path / "quarantine")
    assert quarantine.read(folder) == []
    quarantine.write(folder, "a", [row(2, 0), row(1, 0)])
    quarantine.write(folder, "b", [row(2, 0), row(2, 1, "empty")])
    quarantine.write(folder, "c", [])
    rows = quarantine.read(folder)
    assert [(row[schema.SAMPLE_ID], row[schema.EPOCH]) for row in rows] == [(1, 0), (2, 0), (2, 1)]
    assert quarantine.count_by_reason(rows) == {"corrupt": 2, "empty": 1}
    quarantine.write(folder, "b", [row(3, 0)])  # the task was run again
    assert len(quarantine.read(folder)) == 3


def test_files_of_others_are_no_part_of_it(tmp_path: Path) -> None:
    quarantine.write(str(tmp_path), "a", [row(1, 0)])
    for name in (".DS_Store", "._a.parquet", "notes.txt", "a.parquet.bak"):
        (tmp_path / name).write_bytes(b"\x00 no table")
    assert [row[schema.SAMPLE_ID] for row in quarantine.read(str(tmp_path))] == [1]
