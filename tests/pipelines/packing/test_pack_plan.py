"""Shards are cut as one pass would, and a task reads a small part of the plan."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.corpus.listed_rows import LISTED
from pipelines.corpus.manifest_writer import write_manifest
from pipelines.packing import pack_plan
from pipelines.packing.pack_plan import (
    ROWS_IN,
    SAMPLES,
    HashOrder,
    PackPlan,
    cut_to_shards,
    is_planned,
    write_plan,
)
from pipelines.storage import uris

LIMIT = 20_000


def samples(rows: int) -> pa.Table:
    draw = np.random.default_rng(rows)
    ids = np.sort(draw.integers(-(2**63), 2**63, rows))
    known = {"sample_id": ids, "length": draw.integers(1, 9000, rows)}
    known |= {"uri": ["/c/x"] * rows, "offset": np.zeros(rows, np.int64)}
    return pa.table(
        {field.name: known.get(field.name, pa.nulls(rows, field.type)) for field in SAMPLES},
        schema=SAMPLES,
    )


def one_by_one(table: pa.Table, scale: float) -> list[int]:
    """Rows of each shard, as somebody filling one after another would have them."""
    shards, size = [0], 0
    for length in table["length"].to_pylist():
        blocks = -(-int(np.ceil(length * scale)) // 512)
        added = 512 * (1 + blocks)
        if shards[-1] and size + added > LIMIT:
            shards, size = [*shards, 0], 0
        shards[-1] += 1
        size += added
    return shards


@pytest.mark.parametrize("scale", [1.0, 0.37, 9.0])
@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_shards_are_filled_one_after_another(scale: float, piece: int) -> None:
    table = samples(300)
    pieces = [table.slice(start, piece) for start in range(0, 300, piece)]
    cut = list(cut_to_shards(pieces, LIMIT, scale))
    assert [shard.num_rows for shard in cut] == one_by_one(table, scale)
    assert pa.concat_tables(cut).equals(table)


def test_a_plan_of_many_files_gives_every_shard(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(pack_plan, "SHARDS_PER_FILE", 4)
    order = HashOrder(str(tmp_path / "order"))
    order.add(samples(100))
    uri = str(tmp_path / "plan")
    assert not is_planned(uri)
    write_plan(uri, order, rows_in=105, shard_bytes=LIMIT, scale=1.0)
    plan = PackPlan(uri)
    assert is_planned(uri) and (plan.num_rows, plan.rows_in) == (100, 105)
    assert plan.num_shards > 12 and len(uris.list_names(uri)) == -(-plan.num_shards // 4) + 1
    read = [plan.read(shard) for shard in range(plan.num_shards)]
    ids = pa.concat_tables(read)["sample_id"].to_pylist()
    assert ids == sorted(ids) and len(ids) == 100
    assert all(a.num_rows and b.num_rows for a, b in pairwise(read))


def test_a_video_is_packed_once_however_many_clips_of_it_are_listed(tmp_path: Path) -> None:
    places = [("/c/a.jpg", None), ("/c/b.mp4", 0), ("/c/b.mp4", 1), ("/c/b.mp4", 2)]
    rows = [
        {
            "sample_id": number,
            "uri": uri,
            "offset": 0,
            "length": 1,
            "etag": "",
            "media": "image" if clip is None else "video",
            "clip": clip,
        }
        for number, (uri, clip) in enumerate(places)
    ]
    listed = pa.Table.from_pylist(rows, schema=LISTED)
    manifest = write_manifest(str(tmp_path / "m"), "/c", iter([listed]))
    assert manifest.num_rows == 4
    found = pa.concat_tables(pack_plan.samples_of(manifest))["uri"].to_pylist()
    assert sorted(found) == ["/c/a.jpg", "/c/b.mp4"]


def test_a_plan_of_an_earlier_release_is_read(tmp_path: Path) -> None:
    table = samples(20)
    wanted = SAMPLES.with_metadata({ROWS_IN: b"21"})
    with pq.ParquetWriter(tmp_path / "plan.parquet", wanted) as writer:
        for start in (0, 12):
            writer.write_table(table.slice(start, 12).cast(wanted))
    plan = PackPlan(str(tmp_path / "plan"))
    assert is_planned(str(tmp_path / "plan"))
    assert (plan.num_shards, plan.num_rows, plan.rows_in) == (2, 20, 21)
    assert plan.read(1)["sample_id"].to_pylist() == table["sample_id"].to_pylist()[12:]
