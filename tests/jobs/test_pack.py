"""Packing real photographs of every kind of source, and what comes out as `webdataset` and our own
manifest read it."""

import io
import json
import os
import shutil
import signal
import tarfile
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

from jobs import index as indexing
from jobs.pack import PackConfig, pack
from jobs.setup.failures import InputError, RunError
from jobs.setup.inputs import make_manifest, manifest_of
from jobs.setup.sections import SourceConfig
from pipelines import schema
from pipelines.corpus.manifest import Manifest, open_manifest
from pipelines.packing import parquet_source
from pipelines.storage import uris
from pipelines.stream import quarantine
from pipelines.stream.fetch import fetch
from tests import commands
from tests.object_store import ObjectStore

ray_only = pytest.mark.usefixtures("ray_session")
BIG, SMALL = (1200, 900), (60, 40)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, image_folder: Path) -> Path:
    """The 200 small images and 6 JPEGs of noise of 1 MB each, so that there are several shards of 1
    MiB."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "scenes").symlink_to(image_folder)
    for path in image_folder.rglob("*.*"):
        (folder / f"{path.parent.name}-{path.name}").write_bytes(path.read_bytes())
    (folder / "scenes").unlink()
    rng = np.random.default_rng(0)
    for number in range(6):
        noise = rng.integers(0, 256, (*BIG[::-1], 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"noise{number}.jpg", quality=60)
    return folder


def configured(uri: str, out: Path | str, **more: Any) -> PackConfig:
    extra = {"source": {"uri": uri, **more.pop("source", {})}, "out": str(out), "shard_mib": 1}
    return PackConfig.model_validate(extra | more)


def contents(manifest: Manifest) -> list[bytes]:
    """Bytes of all samples, as our own reader fetches them, sorted."""
    groups = [
        manifest.read_row_group(part, group) for part, group, rows in manifest.row_groups() if rows
    ]
    return sorted(
        bytes(data) for group in groups for data in fetch(group) if isinstance(data, bytes)
    )


def of_folder(folder: Path) -> list[bytes]:
    return sorted(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def tars(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "shards").iterdir())}


@ray_only
def test_a_folder_becomes_shards_in_hash_order_that_webdataset_reads(
    pictures: Path, tmp_path: Path
) -> None:
    result = pack(configured(str(pictures), tmp_path / "p"))
    assert (result["rows_in"], result["rows"], result["quarantined"]) == (206, 206, 0)
    manifest = open_manifest(result["manifest"])
    assert contents(manifest) == of_folder(pictures)
    sizes = [len(data) for data in tars(tmp_path / "p").values()]
    assert len(sizes) > 3 and sum(size > 2 << 20 for size in sizes) == 0
    assert len(list(manifest.row_groups())) == len(sizes)  # one row group a shard
    paths = [str(path) for path in sorted((tmp_path / "p" / "shards").iterdir())]
    read = list(webdataset.WebDataset(paths, shardshuffle=False))
    assert sorted(sample.get("jpg") or sample.get("png") for sample in read) == of_folder(pictures)
    keys = [int(sample["__key__"], 16) for sample in read]
    signed = [key - (1 << 64) if key >> 63 else key for key in keys]
    assert signed == sorted(signed) and len(set(keys)) == 206


@ray_only
def test_a_rerun_writes_only_what_is_missing(pictures: Path, tmp_path: Path) -> None:
    config = configured(str(pictures), tmp_path / "p")
    first = pack(config)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "p" / "shards").iterdir()}
    data = tars(tmp_path / "p")
    (tmp_path / "p" / "done" / "000001.parquet").unlink()
    (tmp_path / "p" / "shards" / "000001.tar").write_bytes(b"half")
    second = pack(config)
    assert (second["shards_written"], second["shards_kept"]) == (1, first["shards_written"] - 1)
    assert tars(tmp_path / "p") == data
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "p" / "shards").iterdir()}
    assert {path.name for path in before if before[path] != after[path]} == {"000001.tar"}
    assert contents(open_manifest(second["manifest"])) == of_folder(pictures)
    with pytest.raises(
        InputError, match=r"holds another pack: it differs in shard_mib \(1 there, 2 now\)"
    ):
        pack(config.model_copy(update={"shard_mib": 2}))
    older = config.source.model_copy(update={"version": 1})
    with pytest.raises(InputError, match=r"differs in source\.version \(None there, 1 now\)"):
        pack(config.model_copy(update={"source": older}))
    with pytest.raises(InputError, match="is no pack and not empty"):
        pack(configured(str(pictures), pictures))


@ray_only
def test_the_index_of_the_shards_is_the_manifest_that_the_pack_wrote(
    pictures: Path, tmp_path: Path
) -> None:
    result = pack(configured(str(pictures), tmp_path / "p"))
    words = {"source": {"uri": f"{tmp_path}/p/shards"}, "out": result["manifest"]}
    assert indexing.index(indexing.IndexConfig.model_validate(words))["unchanged"]


@ray_only
def test_reencoding_bounds_the_side_and_quarantines_what_cannot_be_decoded(
    pictures: Path, tmp_path: Path
) -> None:
    bad = {"text.jpg": b"no picture", "cut.jpg": (pictures / "noise0.jpg").read_bytes()[:5000]}
    source = tmp_path / "source"
    source.mkdir()
    for name in ("noise0.jpg", "noise1.jpg", "scene0-01.jpg", "scene0-00.png"):
        (source / name).write_bytes((pictures / name).read_bytes())
    for name, data in bad.items():
        (source / name).write_bytes(data)
    with pytest.raises(RunError, match=r"2 of 6 samples \(33%\) are bad"):
        pack(configured(str(source), tmp_path / "p", reencode={"max_side": 300}))
    allowed = {"source": {"max_bad_fraction": 0.5}, "reencode": {"max_side": 300}}
    result = pack(configured(str(source), tmp_path / "p", **allowed))
    assert result["shards_written"] == 0  # nothing is done twice
    assert (result["rows_in"], result["rows"], result["quarantined"]) == (6, 4, 2)
    rows = {Path(row["uri"]).name: row for row in quarantine.read(f"{tmp_path}/p/quarantine")}
    assert {name: row["reason"] for name, row in rows.items()} == {
        "text.jpg": "unknown_type",
        "cut.jpg": "truncated",
    }
    assert all(
        row[schema.URI].startswith(str(source)) and row["stage"] == "decode"
        for row in rows.values()
    )
    made = contents(open_manifest(result["manifest"]))
    images = [Image.open(io.BytesIO(data)) for data in made]
    assert {image.format for image in images} == {"JPEG"}
    assert (
        sum(max(image.size) == 300 for image in images) == 2
        and max(max(image.size) for image in images) == 300
    )
    assert (source / "scene0-01.jpg").read_bytes() in made  # small enough: not encoded anew


def parquet(path: Path, pictures: Path, kind: str) -> list[bytes]:
    """Write images to a Parquet file of several row groups; two rows have no bytes."""
    files = sorted(pictures.glob("*.*"))[:40]
    data: list[bytes | None] = [*(file.read_bytes() for file in files), None, b""]
    names = [file.name for file in files] + [None, None]
    column: list[Any] = data
    if kind == "struct":
        column = [{"bytes": value, "path": name} for value, name in zip(data, names, strict=True)]
    name = {"struct": "image", "named": "picture"}.get(kind, "bytes")
    path.parent.mkdir(exist_ok=True)
    pq.write_table(
        pa.table({name: column, "label": list(range(len(data)))}), path, row_group_size=9
    )
    return sorted(value for value in data if value)


@ray_only
@pytest.mark.parametrize(
    "kind",
    ["struct", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("plain", "named"))],
)
def test_parquet_files_with_a_bytes_column_are_packed(
    kind: str, pictures: Path, tmp_path: Path
) -> None:
    images = parquet(tmp_path / "data" / "train.parquet", pictures, kind)
    column = {"bytes_column": "picture"} if kind == "named" else {}
    uri = tmp_path / "data" if kind == "struct" else tmp_path / "data" / "train.parquet"
    result = pack(configured(str(uri), tmp_path / "p", source=column))
    assert (result["rows_in"], result["rows"], result["quarantined"]) == (42, 40, 2)
    assert contents(open_manifest(result["manifest"])) == images
    rows = quarantine.read(f"{tmp_path}/p/quarantine")
    assert [(row["offset"], row["reason"], row["message"]) for row in rows] == [
        (40, "empty", "row 40 has no bytes"),
        (41, "empty", "row 41 has no bytes"),
    ]
    assert not (tmp_path / "p" / "staging").exists()
    assert pack(configured(str(uri), tmp_path / "p", source=column))["shards_written"] == 0


@ray_only
def test_a_pack_of_parquet_goes_on_after_a_file_was_added(pictures: Path, tmp_path: Path) -> None:
    files = sorted(pictures.glob("*.*"))[:12]
    folder = tmp_path / "data"
    folder.mkdir()

    def write(name: str, some: list[Path]) -> None:
        pq.write_table(pa.table({"bytes": [path.read_bytes() for path in some]}), folder / name)

    write("b.parquet", files[:4])
    write("c.parquet", files[4:8])
    staging = parquet_source.Staging(str(tmp_path / "staging"), str(tmp_path / "bad"), None)
    list(parquet_source.stage(str(folder), staging))  # a pack that was stopped here
    write("a.parquet", files[8:])
    write("c.parquet", files[4:7])
    rows = pa.concat_tables(parquet_source.stage(str(folder), staging))
    found = [Path(uri).read_bytes() for uri in rows[schema.URI].to_pylist()]
    cut = zip(found, rows[schema.OFFSET].to_pylist(), rows[schema.LENGTH].to_pylist(), strict=True)
    images = [data[offset : offset + length] for data, offset, length in cut]
    wanted = [path.read_bytes() for path in (*files[8:], *files[:7])]
    assert sorted(images) == sorted(wanted)


@ray_only
def test_a_wrong_column_is_refused_with_the_columns_there_are(
    pictures: Path, tmp_path: Path
) -> None:
    parquet(tmp_path / "data" / "x.parquet", pictures, "named")
    with pytest.raises(
        InputError, match=r"bytes or image is no column of bytes in .*: it has picture \(binary\)"
    ):
        pack(configured(str(tmp_path / "data"), tmp_path / "p"))
    with pytest.raises(InputError, match="label is no column of bytes"):
        pack(configured(str(tmp_path / "data"), tmp_path / "q", source={"bytes_column": "label"}))


@pytest.mark.long
@ray_only
def test_tars_in_a_bucket_are_packed_anew_to_a_bucket(
    object_store: ObjectStore,
    pictures: Path,
    tmp_path: Path,
    put_folder: Callable[[Path, str], None],
) -> None:
    with tarfile.open(tmp_path / "by-class.tar", "w") as tar:
        tar.add(pictures, "x")
    object_store.make_bucket("pack")
    uris.write_bytes("s3://pack/in/by-class.tar", (tmp_path / "by-class.tar").read_bytes())
    result = pack(configured("s3://pack/in/by-class.tar", "s3://pack/out"))
    assert (result["rows"], result["manifest"]) == (206, "s3://pack/out/manifest")
    assert contents(open_manifest(result["manifest"])) == of_folder(pictures)
    assert pack(configured("s3://pack/in/by-class.tar", "s3://pack/out"))["shards_written"] == 0


@ray_only
def test_what_is_gone_since_the_index_is_quarantined(pictures: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for path in sorted(pictures.glob("scene0-*"))[:20]:
        shutil.copy(path, source)
    made = make_manifest(str(source), str(tmp_path / "index"))
    (source / "scene0-03.jpg").unlink()
    result = pack(configured(made.uri, tmp_path / "p"))
    assert (result["rows_in"], result["rows"], result["quarantined"]) == (20, 19, 1)
    (row,) = quarantine.read(f"{tmp_path}/p/quarantine")
    assert (row["uri"], row["reason"]) == (str(source / "scene0-03.jpg"), "missing")
    assert contents(open_manifest(result["manifest"])) == of_folder(source)


@pytest.mark.long
@ray_only
def test_too_many_bad_samples_end_a_pack_before_all_are_read(
    pictures: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    copies = 4  # more shards than are made at once
    for number, path in enumerate(sorted(pictures.iterdir()) * copies):
        whole = number % 2 or path.name.startswith("noise")
        content = path.read_bytes() if whole else b"no picture"
        (source / f"{number}-{path.name}").write_bytes(content)
    words = {"source": {"max_bad_fraction": 0.3}, "reencode": {"max_side": 1200}}
    with pytest.raises(RunError, match=r"\((4|5)\d%\) are bad .*max_bad_fraction=0.3") as caught:
        pack(configured(str(source), tmp_path / "p", **words))
    seen = int(str(caught.value).partition(" of ")[2].partition(" ")[0])
    assert 100 <= seen < 206 * copies


@pytest.mark.parametrize("media", ["audio", "text"])
def test_sounds_and_texts_are_packed_as_what_they_are(tmp_path: Path, media: str) -> None:
    (tmp_path / "in").mkdir()
    if media == "audio":
        for number in range(3):
            with wave.open(str(tmp_path / "in" / f"{number}.wav"), "wb") as file:
                file.setparams((1, 2, 8000, 0, "NONE", ""))
                file.writeframes(bytes([number, 0]) * 4000)
        wanted = {path.read_bytes() for path in (tmp_path / "in").iterdir()}
    else:
        (tmp_path / "in" / "a.txt").write_text("one line\nanother\nthe third\n")
        wanted = {b"one line", b"another", b"the third"}
    out = tmp_path / "out"
    source = {"uri": str(tmp_path / "in"), "media": media}
    assert pack(PackConfig.model_validate({"source": source, "out": str(out)}))["rows"] == 3
    found = {}
    for shard in (out / "shards").glob("*.tar"):
        with tarfile.open(shard) as tar:
            found |= {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert {data.strip() for data in found.values()} == wanted
    assert {Path(name).suffix for name in found} == {".wav" if media == "audio" else ".txt"}
    manifest = open_manifest(str(out / "manifest"))
    assert manifest.media == {media: 3} and manifest.selection.medium == media
    # the pack is a source of the same medium, told by its manifest, and of no other
    again = pack(PackConfig.model_validate({"source": {"uri": manifest.uri}, "out": f"{out}2"}))
    assert again["rows"] == 3
    other = SourceConfig(uri=manifest.uri, media="pictures")
    with pytest.raises(InputError, match=rf"source\.media pictures, but .* listed with {media}"):
        manifest_of(other, str(tmp_path / "listing"))


@pytest.mark.slow
def test_a_killed_pack_goes_on_where_it_was(pictures: Path, tmp_path: Path) -> None:
    words = [f"source.uri={pictures}", "shard_mib=1"]
    whole = commands.run("pack", *words, f"out={tmp_path}/whole", "--json")
    assert whole.returncode == 0, whole.stderr
    process = commands.start("pack", *words, f"out={tmp_path}/p")
    commands.read_until(process, "shard 2/")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    again = commands.run("pack", *words, f"out={tmp_path}/p", "--json")
    result = json.loads(again.stdout.splitlines()[-1])
    assert again.returncode == 0 and result["shards_kept"] >= 2 and result["rows"] == 206
    assert tars(tmp_path / "p") == tars(tmp_path / "whole")
