"""The index as a job: what it says of a second run, and what it refuses."""

import io
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.index import IndexConfig, index
from jobs.setup.command_line import parse
from jobs.setup.failures import InputError
from jobs.setup.inputs import manifest_of
from jobs.setup.sections import SourceConfig
from pipelines.corpus.manifest import open_manifest, versions

pytestmark = pytest.mark.usefixtures("ray_session")


def test_globs_on_the_command_line_are_globs() -> None:
    words = ["source.uri=x", "out=y", "source.members=*.jpg, a/**.png"]
    config = parse(lambda values: (IndexConfig, values), words)
    assert config.source.members == ("*.jpg", "a/**.png")
    assert parse(lambda values: (IndexConfig, values), words[:2]).source.members is None


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


def test_the_members_and_names_asked_for_are_kept_from_version_to_version(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "source", tmp_path / "m"
    source.mkdir()
    with tarfile.open(source / "x.tar", "w") as tar:
        for name in ("0.jpg", "0.mask.png", "1.jpg"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
            member = tarfile.TarInfo(f"full/{name}")
            member.size = 9
            tar.addfile(member, io.BytesIO(b"\xff\xd8\xff\xe0JFIF\0"))
    (source / "nameless").write_bytes(b"\xff\xd8\xff\xe0JFIF\0")
    words = {"uri": str(source), "members": "*.jpg", "any_name": True}
    config = IndexConfig.model_validate({"source": words, "out": str(out)})
    assert config.source.members == ("*.jpg",) and index(config)["rows"] == 3
    table = pa.concat_tables(open_manifest(str(out)).read_left_out())
    assert set(zip(table["member"].to_pylist(), table["reason"].to_pylist(), strict=True)) == {
        ("0.jpg", "zero bytes"),
        ("1.jpg", "zero bytes"),
        ("0.mask.png", "not in source.members"),
        ("full/0.mask.png", "not in source.members"),
    }
    assert run(source, out)["unchanged"]
    with pytest.raises(
        InputError, match=r"source.members \*\.png, but .* 'source.members=\*\.png'"
    ):
        manifest_of(SourceConfig(uri=str(out), members=("*.png",)), "")
    more = {"source": words | {"members": None, "any_name": False}, "out": str(out)}
    assert index(IndexConfig.model_validate(more))["diff"]["removed"] == 1


def test_a_corpus_that_is_mostly_gone_makes_a_version_only_when_told_to(
    image_folder: Path, tmp_path: Path
) -> None:
    source, out = tmp_path / "source", tmp_path / "m"
    for scene in ("scene0", "scene1", "scene2"):
        shutil.copytree(image_folder / scene, source / scene)
    run(source, out)
    for scene in ("scene0", "scene1"):
        shutil.move(source / scene, tmp_path / scene)  # as if not mounted
    with pytest.raises(InputError, match=r"50 of 75 samples are gone .* max_gone_fraction=1"):
        run(source, out)
    assert versions(str(out)) == [1]
    words = {"source": {"uri": str(source)}, "out": str(out), "max_gone_fraction": 1}
    assert index(IndexConfig.model_validate(words))["diff"]["removed"] == 50


def test_wrong_sources_are_input_errors(image_folder: Path, tmp_path: Path) -> None:
    run(image_folder / "scene0", tmp_path / "m")
    with pytest.raises(
        InputError, match=r"is the manifest of .*scene0, not of .*scene1: choose another out"
    ):
        run(image_folder / "scene1", tmp_path / "m")
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars" / "x.tar.gz").write_bytes(b"x")
    with pytest.raises(
        InputError, match=r"holds no images \(1 x compressed tar \(unpack it to \.tar\)\)"
    ):
        run(tmp_path / "tars", tmp_path / "n")
    with pytest.raises(InputError, match=r"nothing\*\.jpg matches nothing: check the pattern"):
        run(tmp_path / "nothing*.jpg", tmp_path / "n")
