"""pipelines.packing.carried: labels, captions and JSON come along from wherever they lie, each read
once and side by side."""

import io
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from jobs.setup.inputs import make_manifest
from pipelines import schema
from pipelines.packing import carried
from pipelines.packing.carried import Carried
from tests.object_store import ObjectStore

Told = dict[str, tuple[str | None, ...]]


def put(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def shard(path: Path, files: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))


def told(source: str, tmp_path: Path, *names: str) -> Told:
    """Return what comes along of each sample, by the name of its file or member."""
    manifest = make_manifest(source, str(tmp_path / "listed"))
    parts = [manifest.read_row_group(part, group) for part, group, _ in manifest.row_groups()]
    rows = pa.concat_tables(parts)
    columns = Carried.of_manifest(names, manifest).of(rows)
    places = zip(rows[schema.URI].to_pylist(), rows[schema.MEMBER].to_pylist(), strict=True)
    of_sample = [(member or uri).rpartition("/")[2] for uri, member in places]
    values = zip(*(columns[name].to_pylist() for name in names), strict=True)
    return dict(zip(of_sample, values, strict=True))


def test_the_first_folder_below_the_source_is_the_label_of_class_folders(tmp_path: Path) -> None:
    put(tmp_path / "s", {"cat/a/1.jpg": "1", "dog/2.jpg": "2", "3.jpg": "3", "dog/readme.md": "x"})
    shard(tmp_path / "s" / "more.tar", {"bird/4.jpg": "4"})
    expected = {"1.jpg": ("cat",), "2.jpg": ("dog",), "3.jpg": (None,), "4.jpg": ("bird",)}
    assert told(str(tmp_path / "s"), tmp_path, "label") == expected


def test_captions_json_and_labels_lie_beside_loose_files(tmp_path: Path) -> None:
    files = {
        "x/a.b.jpg": "1",
        "x/a.b.txt": " two\nlines ",
        "x/a.b.json": '{"label": "cat"}',
        "x/2.jpg": "2",
        "x/2.cls": "3",
        "x/2.json": '{"label": 9}',
        "x/3.jpg": "3",
        "x/3.txt": "x" * (carried.MAX_BYTES + 1),
    }
    put(tmp_path / "s", files)
    assert told(str(tmp_path / "s"), tmp_path, "label", "caption", "json") == {
        "a.b.jpg": ("cat", "two\nlines", '{"label": "cat"}'),
        "2.jpg": ("3", None, '{"label": 9}'),
        "3.jpg": (None, None, None),
    }


def test_labels_beside_members_of_shards_are_those_of_the_labels_loader(tmp_path: Path) -> None:
    files = {
        "x/1.jpg": "1",
        "x/1.json": '{"labels": ["cat", "dog"], "size": 3}',
        "x/1.txt": "a caption",
        "x/2.jpg": "2",
        "x/2.json": '{"size": 3}',
        "x/3.jpg": "3",
        "x/3.cls": "bird\n",
    }
    shard(tmp_path / "s" / "0.tar", files)
    expected: Told = {
        "1.jpg": ("cat|dog", "a caption"),
        "2.jpg": (None, None),
        "3.jpg": ("bird", None),
    }
    assert told(str(tmp_path / "s"), tmp_path, "label", "caption") == expected
    del files["x/3.cls"], files["x/3.jpg"], expected["3.jpg"]
    shard(tmp_path / "s" / "0.tar", files)
    assert told(str(tmp_path / "s"), tmp_path, "label", "caption") == expected


def test_json_without_labels_leaves_class_folders_their_names(tmp_path: Path) -> None:
    put(tmp_path / "s", {"cat/1.jpg": "1", "cat/1.json": '{"size": 3}', "notes.json": "[1]"})
    assert told(str(tmp_path / "s"), tmp_path, "label", "json") == {"1.jpg": ("cat", '{"size": 3}')}


def test_files_beside_are_read_once_and_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, {f"{number}.jpg": "1" for number in range(8)})
    put(tmp_path, {f"{number}.txt": str(number) for number in range(8)})
    manifest = make_manifest(str(tmp_path), str(tmp_path / "listed"))
    rows = manifest.read_row_group(*next(manifest.row_groups())[:2])
    together = threading.Barrier(8, timeout=10)
    read = carried.uris.read_range

    def waits_for_the_others(uri: str, start: int, stop: int) -> bytes:
        together.wait()
        return read(uri, start, stop)

    monkeypatch.setattr(carried.uris, "read_range", waits_for_the_others)
    twice = pa.concat_tables([rows, rows])  # as of frames
    found = Carried(("caption",), manifest).of(twice)["caption"].to_pylist()
    assert found == 2 * [Path(uri).stem for uri in rows[schema.URI].to_pylist()]


@pytest.mark.usefixtures("ray_session")
def test_buckets_give_what_lies_beside_as_folders_do(
    object_store: ObjectStore, tmp_path: Path, put_folder: Callable[[Path, str], None]
) -> None:
    object_store.make_bucket("carried")
    bucket = "s3://carried/some where"
    put(tmp_path / "s", {"cat/1.jpg": "1", "cat/1.txt": "one", "dog/2.jpg": "2"})
    put_folder(tmp_path / "s", bucket)
    expected = {"1.jpg": ("cat", "one"), "2.jpg": ("dog", None)}
    assert told(bucket, tmp_path, "label", "caption") == expected
