"""jobs.export: which image, member or frame each row is, and what becomes of an export begun before
it was said."""

import json
import os
import shutil
import sys
import tarfile
from pathlib import Path
from typing import Any

import duckdb
import faiss
import lance
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.export import ExportConfig, export, places
from jobs.exporting.export_sections import ExportedClipConfig
from jobs.setup.command_line import main
from jobs.setup.failures import InputError, RunError
from jobs.setup.inputs import make_manifest
from jobs.setup.sections import SourceConfig
from models import artifact
from pipelines.embeddings import embed
from pipelines.embeddings.stored import open_stored
from pipelines.media.contract import Clip, Limits
from pipelines.media.decoder import Decoder
from pipelines.registry.model_versions import register
from pipelines.registry.moves import promote
from pipelines.registry.registered_model import RegisteredModel
from pipelines.registry.signature import Signature
from pipelines.stream import ingest
from tests.pipelines.embeddings.test_features import save
from tests.pipelines.media.videos import video


def config(artifact: str, source: Path, out: Path) -> ExportConfig:
    return ExportConfig.model_validate(
        {
            "artifact": artifact,
            "source": {"uri": str(source)},
            "out": str(out),
            "clip": {"per_video": 2},
        }
    )


@pytest.mark.long
@pytest.mark.usefixtures("ray_session")
def test_every_row_names_its_member_key_and_time(
    image_folder: Path, small_artifact: str, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "loose.png").write_bytes((image_folder / "scene0" / "00.png").read_bytes())
    (source / "clip.mp4").write_bytes(video(50, rate=25))
    with tarfile.open(source / "shard.tar", "w") as tar:
        tar.add(image_folder / "scene0" / "01.jpg", "cats/01.left.jpg")
        tar.add(source / "clip.mp4", "02.mp4")

    wanted = config(small_artifact, source, tmp_path / "out")
    assert export(wanted)["rows"] == 6
    rows = pq.read_table(tmp_path / "out" / "embeddings").to_pylist()
    told = {
        (Path(row["uri"]).name, row["member"], row["key"], row["clip"], row["start_s"])
        for row in rows
    }
    assert told == {
        ("loose.png", None, None, None, None),
        ("shard.tar", "cats/01.left.jpg", "cats/01", None, None),
        ("shard.tar", "02.mp4", "02", 0, 0.48),
        ("shard.tar", "02.mp4", "02", 1, 1.48),
        ("clip.mp4", None, None, 0, 0.48),
        ("clip.mp4", None, None, 1, 1.48),
    }
    ends = {row["end_s"] and round(row["end_s"] - row["start_s"], 6) for row in rows}
    assert ends == {None, 0.04}

    record = tmp_path / "out" / "export.json"
    earlier = json.loads(record.read_text())
    del earlier["format"]
    record.write_text(json.dumps(earlier))
    with pytest.raises(InputError, match="holds an export of an earlier version"):
        export(wanted)


@pytest.mark.long
@pytest.mark.usefixtures("ray_session")
def test_frames_that_a_clip_leaves_out_are_told_and_blocks_are_bounded_by_their_bytes(
    small_artifact: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name, frames in (("long", 50), ("short", 20)):
        (source / f"{name}.mp4").write_bytes(video(frames, rate=25))
    blocks = list[int]()
    made = ingest.dataset

    def noted(work: ingest.Ingest, ranges: Any) -> Any:
        blocks.append(work.block_rows)
        return made(work, ranges)

    monkeypatch.setattr(ingest, "dataset", noted)
    monkeypatch.setattr(embed, "BLOCK_BYTES", 10_000)  # a clip of 4 frames of 16 px has 3,072
    wanted = config(small_artifact, source, tmp_path / "out").model_copy(
        update={"clip": ExportedClipConfig(num_frames=4, fps=5, rows="frame", per_video=1)}
    )
    done = export(wanted)
    assert blocks == [2]
    column = open_stored(wanted.out).column
    assert (column.num_frames, column.fps, column.each_frame) == (4, 5.0, True)
    assert (done["rows"], done["videos_cut"], done["longest_frames"]) == (8, 1, 10)
    assert "videos longer than clip.num_frames=4 at clip.fps=5: 1;" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    ("formats", "following"),
    [
        (["parquet"], ["parquet"]),
        pytest.param(["parquet", "lance"], ["parquet"], marks=pytest.mark.slow),
        pytest.param(["parquet", "lance"], ["parquet", "lance"], marks=pytest.mark.slow),
    ],
)
def test_an_export_follows_its_manifest_and_is_read_by_everybody(
    formats: list[str],
    following: list[str],
    image_folder: Path,
    small_artifact: str,
    tmp_path: Path,
) -> None:
    source = tmp_path / "source"
    shutil.copytree(image_folder / "scene0", source)
    listing = str(tmp_path / "index")
    first = make_manifest(str(source), listing)
    larger = save(tmp_path / "larger", "vit_tiny_small", 24, width=8)
    words = {
        "artifact": f"{small_artifact},{larger}",
        "source": {"uri": listing},
        "part_rows": 16,
        "dtype": "float16",
        "pooling": "gem",
        "layer": -2,
        "normalise": True,
        "carry": "etag",
    }
    wanted = [
        ExportConfig.model_validate({**words, "format": kind, "out": str(tmp_path / kind)})
        for kind in formats
    ]
    early = [one for one in wanted if one.format in following]
    for one in early:
        assert export(one)["rows"] == first.num_rows
    paths = sorted(source.iterdir())
    for path in paths[:3]:
        path.unlink()
    paths[3].write_bytes(paths[4].read_bytes())  # other content at the same place
    (source / "new.png").write_bytes(paths[5].read_bytes())
    second = make_manifest(str(source), listing)
    for one in wanted:
        done = export(one)
        told = (2, 4) if one in early else (second.num_rows, 0)
        assert (done["rows"], done["gone"]) == told
    for one in early:
        assert export(one).items() >= {"rows": 0, "gone": 0, "parts_written": 0}.items()
    with pytest.raises(InputError, match="holds another export: it differs in pooling"):
        export(wanted[0].model_copy(update={"pooling": "mean"}))
    older = {**words, "source": {"uri": listing, "version": 1}, "out": wanted[0].out}
    with pytest.raises(InputError, match=r"holds version 2 of .*, and source\.version 1 is older"):
        export(ExportConfig.model_validate(older))

    ids = {
        one
        for part, group, _ in second.row_groups()
        for one in second.read_row_group(part, group)["sample_id"].to_pylist()
    }
    dims = {"embedding_1": 32, "embedding_2": 24}
    for one in wanted:
        for name, dim in dims.items():
            read = open_stored(one.out, name)
            found = [(block.ids, block.vectors) for block in read.blocks(["etag"])]
            assert sorted(np.concatenate([each for each, _ in found])) == sorted(ids)
            vectors = np.concatenate([each for _, each in found])
            assert vectors.shape == (len(ids), dim)
            assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-2)
            assert (read.column.pooling, read.column.layer) == ("gem", -2)
    as_others_read_it(tmp_path, ids, formats)


def as_others_read_it(folder: Path, ids: set[int], formats: list[str]) -> None:
    """Read an export with other libraries, and search it with faiss."""
    parts = str(folder / "parquet" / "embeddings")
    tables = {
        "pyarrow": pq.read_table(parts),
        "pandas": pa.Table.from_pandas(pd.read_parquet(parts)),
        "polars": pl.read_parquet(f"{parts}/*.parquet").to_arrow(),
        "duckdb": duckdb.sql(f"from read_parquet('{parts}/*.parquet')").to_arrow_table(),
    }
    if "lance" in formats:
        dataset = lance.dataset(str(folder / "lance" / "embeddings.lance"))
        assert json.loads(dataset.schema.metadata[b"afield"])["manifest_version"] == 2
        tables["lance"] = dataset.to_table()
    for name, table in tables.items():
        assert sorted(table["sample_id"].to_pylist()) == sorted(ids), name
    column = tables["pyarrow"]["embedding_1"].combine_chunks()
    vectors = np.ascontiguousarray(column.flatten().to_numpy().reshape(-1, 32), np.float32)
    index = faiss.IndexIDMap2(faiss.IndexFlatIP(32))
    index.add_with_ids(vectors, tables["pyarrow"]["sample_id"].to_numpy())
    similar, nearest = index.search(vectors[:5], 1)
    assert set(nearest[:, 0]) <= ids and np.allclose(similar, 1, atol=1e-2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pooling=class"], "error: pooling=class cannot be done by encoder.name=resnet18_small"),
        (["layer=5"], "error: layer 5 is none of the encoder, which has 4: give 1 to 4, or -1"),
        (["layer=1", "last_blocks=2"], "error: last_blocks 2 must be 1 to 1"),
        (["clip.num_frames=4", "clip.rows=frame"], "error: clip.rows=frame needs clip.fps"),
        (["format=lance"], "error: format=lance needs Lance: pip install 'afield[lance]'"),
    ],
)
def test_what_an_artifact_does_not_give_is_refused_in_one_line_before_ray_starts(
    words: list[str],
    message: str,
    small_artifact: str,
    image_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "lance", None)
    given = [f"artifact={small_artifact}", f"source.uri={image_folder}", f"out={tmp_path / 'e'}"]
    assert main("export", "", lambda values: (ExportConfig, values), export, given + words) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith(message), said
    assert not (tmp_path / "e").exists()


def test_an_export_goes_on_with_the_versions_that_it_was_begun_with(
    small_artifact: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = RegisteredModel(str(tmp_path / "registry"), "encoder")
    by = Signature.now("test")
    other = save(tmp_path / "other", "resnet18_small", 16, width=8)
    for source, parent in ((small_artifact, None), (other, None), (other, "encoder@1")):
        register(model, source, lineage={"parent": parent}, metrics={}, by=by)
    promote(model, "champion", 2, by=by)
    named = f"{model.uri}@champion"
    out = tmp_path / "out"
    given = config(f"{small_artifact},{named}", tmp_path, out)
    assert places(given, str(out)) == [small_artifact, model.version(2, "artifact")]
    out.mkdir()
    digests = [artifact.load(uri).digest for uri in (small_artifact, other)]
    (out / "export.json").write_text(json.dumps({"artifact_digest": digests}))
    promote(model, "champion", 1, by=by)
    assert places(given, str(out)) == [small_artifact, model.version(2, "artifact")]
    said = capsys.readouterr().err.splitlines()
    assert said[-1].endswith(
        "is version 1 now, and out was begun with version 2: going on with that; for version 1"
        " choose another out"
    )
    alone = config(named, tmp_path, out)
    (out / "export.json").write_text(json.dumps({"artifact_digest": digests[1]}))
    assert places(alone, str(out)) == [model.version(2, "artifact")]


@pytest.fixture
def rotten(image_folder: Path, tmp_path: Path) -> Path:
    """200 files, 72 of which are no pictures."""
    folder = tmp_path / "rotten"
    shutil.copytree(image_folder, folder)
    for number in range(9):
        for scene in folder.iterdir():
            (scene / f"{5 * (number % 5) + 1 + number // 5:02d}.jpg").write_bytes(b"no picture")
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_too_many_bad_samples_end_an_export_before_all_are_read(
    rotten: Path, small_artifact: str, tmp_path: Path
) -> None:
    source = {"uri": str(rotten), "max_bad_fraction": 0.2}
    wanted = config(small_artifact, rotten, tmp_path / "out")
    few = wanted.model_copy(update={"part_rows": 16, "source": SourceConfig(**source)})
    with pytest.raises(RunError, match=r"are bad .*more than source.max_bad_fraction=0.2") as said:
        export(few)
    seen = int(str(said.value).partition(" of ")[2].partition(" ")[0])
    assert 100 <= seen < 200


@pytest.mark.long
@pytest.mark.usefixtures("ray_session")
def test_a_short_export_is_judged_at_its_end_and_verifies_where_that_is_asked_for(
    image_folder: Path, small_artifact: str, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(image_folder / "scene0", source)
    manifest = make_manifest(str(source), str(tmp_path / "index"))
    for path in sorted(source.iterdir())[:6]:
        os.utime(path, ns=(0, 1))  # written again, for all that anybody can tell
    wanted = config(small_artifact, Path(manifest.uri), tmp_path / "out")
    verified = {"uri": manifest.uri, "verify": "etag"}
    with pytest.raises(RunError, match=r"6 of 25 samples \(24%\) are bad \(6 checksum\)"):
        export(wanted.model_copy(update={"source": SourceConfig(**verified)}))
    unread = {"rows": 0, "parts_kept": 1, "quarantined": 0, "reasons": {"checksum": 6}}
    allowed = SourceConfig(**verified, max_bad_fraction=0.3)
    assert unread.items() <= export(wanted.model_copy(update={"source": allowed})).items()


def test_a_clip_says_from_when_to_when_it_is_on_display() -> None:
    decoder = Decoder(Limits())
    try:
        clip = decoder.clip(video(50, rate=25), Clip(4, 2, None, 0.0))
        assert clip.shown == pytest.approx((0.0, 0.28))  # frames 0, 2, 4 and 6
        assert clip.lasts_s == pytest.approx(2.0)
        whole = decoder.clip(video(5, rate=25), Clip(16, 1, None, 0.0))
        assert whole.shown == pytest.approx((0.0, 0.2))
    finally:
        decoder.close()
