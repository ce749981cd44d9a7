import io
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from pipelines import schema
from pipelines.corpus import listing
from pipelines.corpus import manifest_writer as manifests
from pipelines.corpus.entry import Place, Selection
from pipelines.corpus.listing import list_source
from pipelines.corpus.manifest import Manifest, open_manifest, versions
from pipelines.corpus.manifest_writer import write_manifest
from pipelines.stream.fetch import fetch
from tests.object_store import ObjectStore


def picture(colour: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (colour, 0, 0)).save(file, "PNG")
    return file.getvalue()


def all_rows(manifest: Manifest) -> pa.Table:
    return pa.concat_tables(
        manifest.read_row_group(part, group) for part, group, _ in manifest.row_groups()
    )


def make_shard(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_a_folder_is_listed_whole_in_hash_order(image_folder: Path, tmp_path: Path) -> None:
    manifest = write_manifest(
        str(tmp_path / "m"), str(image_folder), list_source(str(image_folder))
    )
    rows = all_rows(manifest)
    assert set(rows[schema.URI].to_pylist()) == {str(path) for path in image_folder.rglob("*.*")}
    assert rows.num_rows == manifest.num_rows == 200
    ids = rows[schema.SAMPLE_ID].to_pylist()
    assert ids == sorted(ids) and len(set(ids)) == 200
    assert open_manifest(str(tmp_path / "m")) == manifest
    for name in (".DS_Store", "notes.json", "000009.json.bak", "._000009.json"):
        (tmp_path / "m" / "versions" / name).write_bytes(b"\x00 no version")
    assert versions(str(tmp_path / "m")) == [1]


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("here", [0, 3])
def test_what_this_process_does_not_list_in_time_tasks_list_as_it_would_have(
    monkeypatch: pytest.MonkeyPatch, image_folder: Path, here: int
) -> None:
    def rows() -> list[dict[str, object]]:
        tables = list_source(str(image_folder))
        return sorted(pa.concat_tables(tables).to_pylist(), key=lambda row: str(row[schema.URI]))

    at_once = rows()
    listed = iter(range(here))
    in_time = listing._in_time

    def slow(place: Place, selection: Selection, deadline: float) -> pa.Table | None:
        late = next(listed, None) is None
        return in_time(place, selection, 0.0 if late else deadline)

    monkeypatch.setattr(listing, "_in_time", slow)
    assert rows() == at_once and len(at_once) == 200


def test_what_is_no_sample_is_counted_by_reason(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / ".hidden").mkdir(parents=True)
    (source / ".hidden" / "a.png").write_bytes(picture(1))
    (source / "notes.txt").write_text("no picture")
    (source / "empty.jpg").touch()
    (source / "-odd name %20#ü.png").write_bytes(picture(2))
    os.symlink(source, source / "circle")
    manifest = write_manifest(str(tmp_path / "m"), str(source), list_source(str(source)))
    assert [os.path.basename(uri) for uri in all_rows(manifest)[schema.URI].to_pylist()] == [
        "-odd name %20#ü.png"
    ]
    wanted = {"hidden folder": 1, "link to a folder": 1, "no image (.txt)": 1, "zero bytes": 1}
    assert manifest.left_out == wanted


def test_a_folder_without_images_is_refused_with_what_was_seen(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ValueError, match=r"holds no images \(1 x no image \(.txt\)\)"):
        write_manifest(str(tmp_path / "m"), str(tmp_path), list_source(str(tmp_path)))
    assert versions(str(tmp_path / "m")) == []


def test_tar_members_are_byte_ranges_one_row_group_a_shard(tmp_path: Path) -> None:
    for shard in range(3):
        members = {f"{i:03d}.png": picture(10 * shard + i) for i in range(4)} | {
            "004.txt": b"caption"
        }
        make_shard(tmp_path / f"shard-{shard:02d}.tar", members)
    source = str(tmp_path / "shard-{00..02}.tar")
    manifest = write_manifest(str(tmp_path / "m"), source, list_source(source))
    assert [rows for _, _, rows in manifest.row_groups()] == [4, 4, 4]
    rows = all_rows(manifest).sort_by(schema.URI)
    assert fetch(rows) == [picture(10 * shard + i) for shard in range(3) for i in range(4)]
    assert rows["member"].to_pylist()[:2] == ["000.png", "001.png"]


def test_a_stray_compressed_tar_is_left_out_and_nothing_else_with_it(
    image_folder: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(image_folder / "scene0", source)
    (source / "shard.tar.gz").write_bytes(b"x")
    manifest = write_manifest(str(tmp_path / "m"), str(source), list_source(str(source)))
    reason = "compressed tar (unpack it to .tar)"
    assert manifest.num_rows == 25 and manifest.left_out == {reason: 1}
    (row,) = next(manifest.read_left_out()).to_pylist()
    assert (row["uri"], row["reason"]) == (f"{source}/shard.tar.gz", reason)


def test_large_corpora_make_several_sorted_parts(
    monkeypatch: pytest.MonkeyPatch, image_folder: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(manifests, "PART_ROWS", 60)
    monkeypatch.setattr(manifests, "ROW_GROUP_ROWS", 16)
    manifest = write_manifest(
        str(tmp_path / "m"), str(image_folder), list_source(str(image_folder))
    )
    assert len(manifest.parts) >= 3 and max(rows for _, _, rows in manifest.row_groups()) == 16
    ids = all_rows(manifest)[schema.SAMPLE_ID].to_pylist()
    assert ids == sorted(ids) and len(ids) == 200


@pytest.mark.usefixtures("ray_session")
def test_a_bucket_is_listed_and_fetched_like_a_folder(
    object_store: ObjectStore,
    image_folder: Path,
    tmp_path: Path,
    put_folder: Callable[[Path, str], None],
) -> None:
    object_store.make_bucket("corpus")
    put_folder(image_folder / "scene3", "s3://corpus/images/scene3")
    manifest = write_manifest(
        "s3://corpus/manifest", "s3://corpus/images", list_source("s3://corpus/images")
    )
    rows = all_rows(manifest).sort_by(schema.URI)
    files = sorted((image_folder / "scene3").iterdir())
    assert rows[schema.URI].to_pylist() == [
        f"s3://corpus/images/scene3/{file.name}" for file in files
    ]
    assert fetch(rows) == [file.read_bytes() for file in files]
