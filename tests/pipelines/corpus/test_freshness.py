"""What changed in a source since it was listed is noticed without listing it anew."""

import os
import shutil
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.corpus import freshness, listing, object_keys
from pipelines.corpus import manifest_writer as manifests
from pipelines.corpus.entry import root_of
from pipelines.corpus.freshness import changes_since
from pipelines.corpus.manifest import Manifest
from pipelines.corpus.manifest_writer import write_manifest
from tests.object_store import ObjectStore


def listed(source: str, out: Path) -> Manifest:
    places = [asdict(place) for place in listing._places(source, one_of_many=False)]
    return write_manifest(str(out), source, listing._list_places(pa.Table.from_pylist(places)))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    for name in [f"{folder}/{i}.jpg" for folder in "abc" for i in range(10)]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    (root / "notes.txt").write_text("x")
    (root / "old.tar.gz").write_bytes(b"x")
    (root / "empty.jpg").touch()
    (root / os.fsdecode(b"latin-\xe9.jpg")).write_bytes(b"x")
    return root


def test_a_source_as_it_was_is_silent_though_a_run_was_written_into_it(
    source: Path, tmp_path: Path
) -> None:
    manifest = listed(str(source), tmp_path / "m")
    assert changes_since(manifest) == ""
    for name in ("config.yaml", "env.json", "report/loss.png"):
        (source / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (source / "run" / name).write_bytes(b"x")
    (source / "more.txt").write_text("x")
    (source / ".hidden.jpg").write_bytes(b"x")
    assert changes_since(manifest) == ""


def test_what_is_new_or_gone_or_changed_is_counted(source: Path, tmp_path: Path) -> None:
    manifest = listed(str(source), tmp_path / "m")
    (source / "b" / "new.jpg").write_bytes(b"x")
    (source / "b" / "new.tar").write_bytes(b"x")
    (source / "a" / "1.jpg").unlink()
    (source / "c" / "1.jpg").write_bytes(b"longer")
    assert changes_since(manifest) == "2 new, 1 gone, 1 changed"


def test_a_folder_that_came_from_elsewhere_is_found_whatever_its_age(
    source: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "x.jpg").write_bytes(b"x")
    manifest = listed(str(source), tmp_path / "m")
    elsewhere.rename(source / "d")
    assert changes_since(manifest) == "1 new"


def test_only_what_matches_the_pattern_is_new(source: Path, tmp_path: Path) -> None:
    manifest = listed(f"{source}/[ab]/*.jpg", tmp_path / "m")
    (source / "c" / "new.jpg").write_bytes(b"x")
    (source / "a" / "new.png").write_bytes(b"x")
    assert changes_since(manifest) == ""
    (source / "a" / "new.jpg").write_bytes(b"x")
    assert changes_since(manifest) == "1 new"


def test_of_a_large_source_a_part_is_looked_at(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freshness, "SAMPLED_GROUPS", 2)
    monkeypatch.setattr(freshness, "SLACK", timedelta(0))
    monkeypatch.setattr(manifests, "ROW_GROUP_ROWS", 10)
    manifest = listed(str(source), tmp_path / "m")
    assert len(list(manifest.row_groups())) == 3
    assert changes_since(manifest) == ""
    (source / "a" / "new.jpg").write_bytes(b"x")
    assert changes_since(manifest) == "at least 1 new"
    monkeypatch.setattr(freshness, "SCANNED_FILES", 3)
    assert changes_since(manifest) in ("at least 1 new", f"{source}/a was written to")


def test_a_source_that_is_gone_says_so(source: Path, tmp_path: Path) -> None:
    manifest = listed(str(source), tmp_path / "m")
    shutil.rmtree(source)
    assert changes_since(manifest) == "30 gone"


def test_a_bucket_is_looked_at_with_some_requests(
    object_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    object_store.make_bucket("fresh")
    fs = object_store.filesystem()
    fs.pipe({f"fresh/in/{folder}/{i:03d}.jpg": b"x" for folder in "ab" for i in range(40)})
    fs.pipe({"fresh/in/notes.txt": b"x", "fresh/in/old.tar.gz": b"x", "fresh/out/z.jpg": b"x"})
    manifest = listed("s3://fresh/in", tmp_path / "m")
    asked: list[str] = []
    page = object_keys._page

    def counted(fs: object, bucket: str, stem: str, **options: object) -> dict[str, object]:
        asked.append(stem)
        return page(fs, bucket, stem, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(object_keys, "_page", counted)
    assert changes_since(manifest) == ""
    fs.pipe({"fresh/in/m/run/config.yaml": b"x", "fresh/in/m/run/report/1.png": b"x"})
    assert changes_since(manifest) == ""
    fs.pipe({"fresh/in/a/041.jpg": b"x", "fresh/in/c/1.jpg": b"x", "fresh/in/b/000.jpg": b"other"})
    monkeypatch.setattr(freshness, "SAMPLED_KEYS", 80)
    assert changes_since(manifest) == "2 new, 1 changed"
    assert len(asked) < 130


def test_the_root_of_a_source_is_what_comes_before_its_pattern() -> None:
    roots = {
        "/data/images/": "/data/images",
        "/data/*/x*.jpg": "/data",
        "/data/shards-{00..63}.tar": "/data",
        "s3://bucket": "s3://bucket",
        "s3://bucket/a/[0-9]/": "s3://bucket/a",
    }
    assert {source: root_of(source) for source in roots} == roots
