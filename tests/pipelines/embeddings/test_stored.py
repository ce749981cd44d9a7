"""Exported embeddings are read back in blocks, from either format, with what made them; vectors of
two encoders are refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import schema
from pipelines.embeddings.features import Features
from pipelines.embeddings.provenance import KEY, Provenance, VectorColumn, check_same
from pipelines.embeddings.stored import open_stored

DIM = 3
MADE = VectorColumn(
    artifact="/a",
    artifact_digest="1" * 64,
    encoder="resnet18_small",
    kind="pretrained",
    pooling="gem",
    layer=2,
    last_blocks=1,
    form="pooled",
    normalised=True,
    dtype="float16",
    shape=(DIM,),
    preprocess={"image_size": 32},
)


def table(start: int, stop: int, **changes: Any) -> pa.Table:
    told = Provenance("/photos", 1, {schema.EMBEDDING: replace(MADE, **changes)})
    ids = np.arange(start, stop)
    values = pa.array((ids[:, None] + np.arange(DIM) / 4).reshape(-1).astype(np.float16))
    columns = [
        pa.array(ids),
        pa.array([f"/{number}" for number in ids]),
        pa.FixedSizeListArray.from_arrays(values, DIM),
    ]
    names = [schema.SAMPLE_ID, schema.URI, schema.EMBEDDING]
    made = pa.table(columns, names=names)
    return made.replace_schema_metadata(told.metadata())


@pytest.fixture(params=["parquet", "lance"])
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / "out.lance"  # a user's name says nothing of what lies there
    folder.mkdir()
    if request.param == "lance":
        lance.write_dataset(table(0, 50), str(folder / "embeddings.lance"))
        return folder
    (folder / "embeddings").mkdir()
    for start, stop in ((0, 20), (20, 50)):
        name = f"part-{start:012d}-{stop:012d}.parquet"
        pq.write_table(table(start, stop), folder / "embeddings" / name)
    return folder


def test_an_export_is_read_in_blocks_with_what_made_it(stored: Path) -> None:
    read = open_stored(str(stored))
    assert open_stored(read.uri) == read
    assert (read.num_rows, read.dim, read.column) == (50, DIM, MADE)
    assert read.column.features("/b") == Features(
        "/b", pooling="gem", layer=2, normalised=True, half=True
    )
    blocks = list(read.blocks([schema.URI], block_rows=7))
    assert max(len(block.ids) for block in blocks) <= 7
    ids = np.concatenate([block.ids for block in blocks])
    assert ids.tolist() == list(range(50))
    vectors = np.concatenate([block.vectors for block in blocks])
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors, ids[:, None] + np.arange(DIM) / 4)
    uris = [uri for block in blocks for uri in block.rows[schema.URI].to_pylist()]
    assert uris == [f"/{number}" for number in ids]
    with pytest.raises(ValueError, match=r"has no column colour: it has sample_id, uri, embedding"):
        next(read.blocks(["colour"]))


def test_parts_of_two_encoders_are_refused(tmp_path: Path) -> None:
    pq.write_table(table(0, 8), tmp_path / "part-000000000000-000000000008.parquet")
    other = table(8, 16, artifact_digest="2" * 64, pooling="max")
    pq.write_table(other, tmp_path / "part-000000000008-000000000016.parquet")
    with pytest.raises(ValueError, match="vectors of two encoders") as said:
        open_stored(str(tmp_path))
    assert "artifact_digest (111111111111 and 222222222222), pooling (gem and max)" in str(
        said.value
    )


def test_where_the_artifact_lies_and_how_exact_the_vectors_are_makes_no_other_encoder() -> None:
    check_same("a", MADE, "b", replace(MADE, artifact="s3://b/a", dtype="float32"))


def test_vectors_of_other_frames_of_videos_are_told_apart_where_both_record_them() -> None:
    middle = replace(MADE, num_frames=1)
    mean = replace(MADE, num_frames=8, fps=2.0)
    frames = replace(mean, each_frame=True)
    slower = replace(mean, fps=1.0)
    with pytest.raises(ValueError, match=r"num_frames \(1 and 8\), fps \(None and 2\.0\)"):
        check_same("a", middle, "b", mean)
    assert mean.differences(frames) == ["each_frame (False and True)"]
    assert mean.differences(slower) == ["fps (2.0 and 1.0)"]
    for one in (middle, mean, frames):
        assert not one.differences(one)
        assert not MADE.differences(one) and not one.differences(MADE)  # of an earlier version
        told = Provenance("/", 1, {schema.EMBEDDING: one})
        assert Provenance.read(told.metadata()) == told
    metadata = json.loads(Provenance("/", 1, {schema.EMBEDDING: MADE}).metadata()[KEY])
    for name in ("num_frames", "frame_stride", "fps", "each_frame"):
        del metadata["columns"][schema.EMBEDDING][name]
    assert Provenance.from_json(metadata).columns[schema.EMBEDDING] == MADE


def test_an_export_of_an_earlier_version_is_read_by_what_its_rows_say(tmp_path: Path) -> None:
    plain = table(0, 8).replace_schema_metadata(None)
    digests = pa.array(["3" * 64] * 8)
    plain = plain.append_column(schema.DIGEST, digests)
    (tmp_path / "embeddings").mkdir()
    place = tmp_path / "embeddings" / "part-000000000000-000000000008.parquet"
    pq.write_table(plain, place)
    (tmp_path / "export.json").write_text('{"source": "/photos", "manifest_version": 1}')
    read = open_stored(str(tmp_path))
    assert read.column.artifact_digest == "3" * 64
    assert (read.provenance.source, read.column.shape) == ("/photos", (DIM,))


def test_an_export_that_is_not_finished_is_refused(stored: Path) -> None:
    record = stored / "progress.json"
    record.write_text('{"manifest_version": 2, "complete": 1}')
    with pytest.raises(ValueError, match=r"an export that is not finished: run the same"):
        open_stored(str(stored))
    record.write_text('{"manifest_version": 2, "complete": 2}')
    assert open_stored(str(stored)).num_rows == 50


@pytest.mark.parametrize("name", ["out", "out.lance"])
def test_a_place_without_embeddings_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match="holds no embeddings: give the out of"):
        open_stored(str(tmp_path / name))
