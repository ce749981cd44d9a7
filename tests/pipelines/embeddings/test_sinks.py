"""What a part of an export holds in either format, and what is no part."""

from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest

from pipelines import schema
from pipelines.corpus.manifest import Manifest
from pipelines.embeddings.part_files import PartFiles, part_files
from pipelines.embeddings.provenance import Provenance
from pipelines.embeddings.sinks import CUT, LONGEST, EmbeddingSink, add, in_column
from pipelines.embeddings.stored import open_stored
from pipelines.packing.carried import Carried
from pipelines.stream.orders import Listed
from tests.pipelines.embeddings.test_stored import DIM, MADE

NUM_ROWS = 40
PARTS = {0: (16, (0, 16)), 16: (32, (16, 33)), 32: (40, (33, 44))}
TIMES = (schema.START_S, schema.END_S, schema.LASTS_S)
FORMATS: list[Literal["parquet", "lance"]] = ["parquet", "lance"]


def sink(files: PartFiles, **changes: Any) -> EmbeddingSink:
    rows = [
        {"sample_id": number, "uri": f"/{number}.jpg", "offset": 0, "length": 1}
        for number in range(NUM_ROWS)
    ]
    order = Listed(pa.Table.from_pylist(rows, schema=schema.MANIFEST))
    made = {schema.EMBEDDING: MADE}
    given = {"order": order, "parts": PARTS, "provenance": Provenance("/", 1, made)}
    return EmbeddingSink(files, **given | changes)


def batch(start: int, stop: int) -> dict[str, np.ndarray]:
    positions = np.arange(start, stop)
    times = {name: np.full(len(positions), np.nan) for name in TIMES}
    return {
        schema.POSITION: positions,
        schema.VALID: positions % 5 != 0,
        schema.EMBEDDING: np.repeat(positions[:, None], DIM, axis=1).astype(np.float32) / 4,
        schema.RETRIES: np.ones(len(positions), np.float32),
        **times,
    }


@pytest.mark.parametrize("kind", FORMATS)
def test_a_whole_part_is_written_without_the_samples_that_could_not_be_used(
    kind: Literal["parquet", "lance"], tmp_path: Path
) -> None:
    files = part_files(str(tmp_path), kind)
    counts = sink(files).write(batch(16, 32))
    assert {name: value.tolist() for name, value in counts.items()} == {
        "rows": [13],
        "samples": [13],
        "quarantined": [3],
        "retries": [16],
    }
    assert files.there() == [(16, 33)]
    table = files.read((16, 33))
    kept = [number for number in range(16, 32) if number % 5]
    assert table[schema.SAMPLE_ID].to_pylist() == kept
    assert table[schema.URI].to_pylist() == [f"/{number}.jpg" for number in kept]
    assert table[schema.DIGEST].unique().to_pylist() == [MADE.artifact_digest]
    assert table.schema.field(schema.EMBEDDING).type == pa.list_(pa.float16(), DIM)
    assert files.read((16, 33), [schema.SAMPLE_ID]).column_names == [schema.SAMPLE_ID]


@pytest.mark.parametrize("frames", [None, 2.0])
@pytest.mark.parametrize("kind", FORMATS)
def test_a_part_of_which_nothing_could_be_used_is_written_empty(
    kind: Literal["parquet", "lance"], frames: float | None, tmp_path: Path
) -> None:
    files = part_files(str(tmp_path), kind)
    bad = batch(16, 32)
    bad[schema.VALID][:] = False
    if frames:
        bad[schema.EMBEDDING] = np.repeat(bad[schema.EMBEDDING][:, None], 4, axis=1)
    into = sink(files, fps=frames)
    counts = into.write(bad)
    assert (counts["rows"], counts["quarantined"]) == (0, 16) and files.there() == [(16, 33)]
    if not frames:
        into.write(batch(0, 16))
        files.finish(into.schema)
        ids = [int(one) for block in open_stored(str(tmp_path)).blocks() for one in block.ids]
        assert ids == [number for number in range(16) if number % 5]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_part_written_again_takes_the_place_of_the_first(
    kind: Literal["parquet", "lance"], tmp_path: Path
) -> None:
    files = part_files(str(tmp_path), kind)
    into = sink(files)
    for start, stop in ((0, 16), (16, 32), (0, 16), (32, 40)):
        into.write(batch(start, stop))
        files.finish(into.schema)
    files.write((0, 16), files.read((0, 16)).slice(2), None)
    files.finish(into.schema)
    read = open_stored(str(tmp_path))
    assert read.column == MADE
    ids = [int(one) for block in read.blocks() for one in block.ids]
    assert ids == [number for number in range(40) if number % 5][2:]


@pytest.mark.parametrize(
    ("start", "stop"),
    [
        (0, 15),  # a row short
        (1, 17),  # shifted
        (8, 24),  # of two parts
        (0, 32),  # two parts
        (32, 39),  # the last, a row short
    ],
)
def test_what_is_not_one_whole_part_is_refused_and_not_written(
    start: int, stop: int, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError, match=f"rows {start} to {stop} do not make one part"):
        sink(part_files(str(tmp_path), "parquet")).write(batch(start, stop))
    assert list(tmp_path.iterdir()) == []


def test_a_part_with_a_gap_is_refused(tmp_path: Path) -> None:
    whole = batch(0, 16)
    gap = {name: np.delete(column, 4, axis=0) for name, column in whole.items()}
    with pytest.raises(RuntimeError, match="do not make one part"):
        sink(part_files(str(tmp_path), "parquet")).write(gap)
    assert list(tmp_path.iterdir()) == []


def test_every_frame_before_the_end_of_a_video_is_a_row(tmp_path: Path) -> None:
    files = part_files(str(tmp_path), "parquet")
    clips = batch(32, 40)
    clips[schema.VALID][:] = True
    clips[schema.EMBEDDING] = np.repeat(clips[schema.EMBEDDING][:, None], 4, axis=1)
    clips[schema.EMBEDDING] += 8 * np.arange(4)[None, :, None]
    clips[schema.START_S][1:3] = 10.0
    clips[schema.END_S][1:3] = 12.0, 10.9  # four frames and two, at two a second
    sink(files, fps=2.0).write(clips)
    rows = files.read((33, 44)).to_pylist()
    assert [row["sample_id"] for row in rows] == [32, *[33] * 4, *[34] * 2, *range(35, 40)]
    assert [row["frame"] for row in rows] == [0, 0, 1, 2, 3, 0, 1, 0, 0, 0, 0, 0]
    assert [row["start_s"] for row in rows[1:5]] == [10.0, 10.5, 11.0, 11.5]
    assert [row["end_s"] for row in rows[5:7]] == [10.5, 10.9] and rows[0]["end_s"] is None
    assert [row["embedding"][0] for row in rows[1:5]] == [33 / 4 + 8 * k for k in range(4)]


def test_a_full_clip_keeps_its_last_frame_and_longer_videos_are_counted_once(
    tmp_path: Path,
) -> None:
    clips = batch(16, 32)
    clips[schema.VALID][:] = True
    clips[schema.EMBEDDING] = np.repeat(clips[schema.EMBEDDING][:, None], 4, axis=1)
    # At one a second the last of four frames is on display from 3.0 s on, for a 25th of a second.
    clips[schema.START_S][:5] = 8.0
    clips[schema.END_S][:5] = 11.04, 11.04, 11.04, 11.0014, 10.5
    clips[schema.LASTS_S][:5] = 20.0, 20.0, 4.0, 3.0014, 2.5
    rows = [
        {"sample_id": n, "uri": f"/{n}", "offset": 0, "length": 1, "clip": clip}
        for n, clip in enumerate([None] * 16 + [0, 1, 0, 0, 0] + [None] * 19)
    ]
    order = Listed(pa.Table.from_pylist(rows, schema=schema.MANIFEST))
    files = part_files(str(tmp_path), "parquet")
    counts = sink(files, order=order, fps=1.0).write(clips)
    assert (counts[CUT].item(), counts[LONGEST].item()) == (1, 20)
    of_sample = Counter(files.read((16, 33))[schema.SAMPLE_ID].to_pylist())
    assert [of_sample[n] for n in range(16, 22)] == [4, 4, 4, 3, 3, 1]
    total = Counter[str]()
    for longest in (3, 20, 7):
        add(total, {CUT: 1, LONGEST: longest})
    assert total == {CUT: 3, LONGEST: 20}


def test_carried_columns_are_counted_where_there_is_something(tmp_path: Path) -> None:
    (tmp_path / "17.txt").write_text("a caption")
    rows = [
        {"sample_id": n, "uri": f"{tmp_path}/{n}.jpg", "offset": 0, "length": 1, "etag": "e"}
        for n in range(NUM_ROWS)
    ]
    order = Listed(pa.Table.from_pylist(rows, schema=schema.MANIFEST))
    blank = Manifest(str(tmp_path / "m"), 1, str(tmp_path), ())
    files = part_files(str(tmp_path / "out"), "parquet")
    into = sink(files, order=order, carried=Carried(("caption", "json", "etag"), blank))
    counts = into.write(batch(16, 32))
    counted = {name: counts[in_column(name)].item() for name in ("caption", "json", "etag")}
    assert counted == {"caption": 1, "json": 0, "etag": 13}
    assert [one for one in files.read((16, 33))["caption"].to_pylist() if one] == ["a caption"]
