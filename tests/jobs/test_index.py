"""The index as a job: what it says of a second run, and what it refuses."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from jobs.index import IndexConfig, index
from jobs.setup.command_line import InputError
from pipelines.corpus.manifest import versions

pytestmark = pytest.mark.usefixtures("ray_session")


def run(source: Path, out: Path) -> dict[str, Any]:
    return index(IndexConfig.model_validate({"source": {"uri": str(source)}, "out": str(out)}))


def test_a_second_index_tells_what_changed_and_a_third_that_nothing_did(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "source", tmp_path / "m"
    shutil.copytree(image_folder / "scene0", source)
    first = run(source, out)
    assert (first["rows"], first["version"], first["unchanged"]) == (25, 1, False)
    assert "25 samples, version 1 (new)" in first["result"]
    (source / "01.jpg").unlink()
    (source / "02.jpg").write_bytes((source / "03.jpg").read_bytes() + b"\0")
    (source / "new.jpg").write_bytes((source / "04.jpg").read_bytes())
    (source / "note.txt").write_text("no picture")
    second = run(source, out)
    assert second["diff"] == {"added": 1, "removed": 1, "changed": 1, "kept": 23}
    assert "25 samples, version 2 (1 added, 1 removed, 1 changed, 23 kept)" in second["result"]
    assert second["left_out"] == {"no image (.txt)": 1}
    third = run(source, out)
    assert third["unchanged"] and third["version"] == 2 and versions(str(out)) == [1, 2]
    assert third["diff"] == {"added": 0, "removed": 0, "changed": 0, "kept": 25}
    assert "left out: 1 x no image (.txt)" in capsys.readouterr().err


def test_wrong_sources_are_input_errors(image_folder: Path, tmp_path: Path) -> None:
    run(image_folder / "scene0", tmp_path / "m")
    with pytest.raises(
        InputError, match=r"is the manifest of .*scene0, not of .*scene1: choose another out"
    ):
        run(image_folder / "scene1", tmp_path / "m")
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars" / "x.tar.gz").write_bytes(b"x")
    with pytest.raises(InputError, match=r"x\.tar\.gz is compressed.*unpack it to \.tar"):
        run(tmp_path / "tars", tmp_path / "n")
    with pytest.raises(InputError, match=r"nothing\*\.jpg matches nothing: check the pattern"):
        run(tmp_path / "nothing*.jpg", tmp_path / "n")
