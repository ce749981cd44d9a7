"""A sample's row: one number for as long as its manifest lives, whatever epoch, version or block it
comes in."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines import schema
from pipelines.corpus import manifest_writer as manifests
from pipelines.corpus.listed_rows import LISTED, sample_id
from pipelines.corpus.manifest import Manifest, open_manifest
from pipelines.corpus.manifest_writer import write_manifest
from pipelines.media.contract import Limits
from pipelines.stream.ingest import Ingest, run_items
from pipelines.stream.ledger import Ledger, Span
from pipelines.stream.orders import Listed, ManifestOrder, Order
from pipelines.stream.plan import Plan
from pipelines.stream.shapes import Centre

# of three versions: rows go, others come
GROUPS = (
    range(60),
    range(10, 75),
    [*range(10, 20), *range(30, 90)],
)


def listing(names: range | list[int]) -> pa.Table:
    rows = [
        {
            "sample_id": sample_id(f"/c/{name}.jpg", None, "a"),
            "uri": f"/c/{name}.jpg",
            "offset": 0,
            "length": 1,
            "member": None,
            "etag": "a",
            "media": "image",
        }
        for name in names
    ]
    return pa.Table.from_pylist(rows, schema=LISTED)


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Manifest]:
    monkeypatch.setattr(manifests, "PART_ROWS", 24)
    monkeypatch.setattr(manifests, "ROW_GROUP_ROWS", 8)
    return [write_manifest(str(tmp_path / "m"), "/c", iter([listing(names)])) for names in GROUPS]


def rows_of(order: Order, start: int, stop: int) -> dict[int, int]:
    """Sample to row at some positions; no sample has two."""
    table = pa.concat_tables(order.rows(start, stop))
    found = set(
        zip(table[schema.SAMPLE_ID].to_pylist(), table[schema.ROW].to_pylist(), strict=True)
    )
    assert len(dict(found)) == len(found)
    return dict(found)


def test_an_id_is_of_uri_member_clip_and_content_and_stays_what_it_was() -> None:
    assert sample_id("s3://bucket/a.jpg", None, "etag") == -2387647354683773360
    assert sample_id("s3://bucket/a.tar", "m.jpg", "etag", 3) == -3817325378946133040
    ids = [sample_id("a", "b", "c"), sample_id("a", "b", "d"), sample_id("a", "b", "c", 1)]
    assert len({*ids, sample_id("a", "c", "c"), sample_id("b", "b", "c")}) == 5


def test_a_row_keeps_its_number_in_later_versions_and_no_other_gets_it(
    versions: list[Manifest],
) -> None:
    numbered = [rows_of(ManifestOrder(manifest), 0, manifest.num_rows) for manifest in versions]
    assert [len(rows) for rows in numbered] == [60, 65, 70]
    assert [manifest.num_stored for manifest in versions] == [60, 75, 90]  # what went is counted on
    assert sorted(numbered[0].values()) == list(range(60))
    for (older, rows_then), (_, rows_now) in pairwise(zip(versions, numbered, strict=True)):
        kept = rows_then.keys() & rows_now.keys()
        assert kept and all(rows_then[sample] == rows_now[sample] for sample in kept)
        fresh = {rows_now[sample] for sample in rows_now.keys() - rows_then.keys()}
        assert min(fresh) == older.num_stored and len(fresh) == 15
    assert open_manifest(versions[2].uri) == versions[2]


def test_a_plan_gives_the_same_row_in_every_epoch_and_version(versions: list[Manifest]) -> None:
    ledger = Ledger(0, (Span(0, 1, 1), Span(70, 2, 2), Span(100, 3, 3)))
    plan = Plan.open(versions[0].uri, ledger, seed=1)
    rows = rows_of(plan, 0, plan.positions(4))  # no sample has two rows
    assert len(rows) == 90 and sorted(rows.values()) == list(range(90))
    for manifest in versions:
        assert rows_of(ManifestOrder(manifest), 0, manifest.num_rows).items() <= rows.items()


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_blocks_carry_rows_whatever_the_number_of_workers(
    versions: list[Manifest], num_workers: int
) -> None:
    plan = Plan.open(versions[0].uri, Ledger(0, (Span(0, 1, 1), Span(70, 2, 1))), seed=1)
    work = Ingest(plan, Centre(8), 12 // num_workers, Limits(), quarantine=None, run="test")
    # the files are missing: invalid
    blocks = list(run_items(pa.table({"start": [0], "stop": [144]}), ingest=work))
    assert {len(block[schema.ROW]) for block in blocks} == {12 // num_workers}
    joined = {
        name: np.concatenate([block[name] for block in blocks])
        for name in (schema.SAMPLE_ID, schema.ROW)
    }
    expected = pa.concat_tables(plan.rows(0, 144))
    assert all(joined[name].tolist() == expected[name].to_pylist() for name in joined)
    assert all(block[schema.ROW].dtype == np.int64 for block in blocks)


def test_listed_rows_are_numbered_as_they_lie() -> None:
    table = pa.concat_tables(Listed(listing(range(5))).rows(1, 4))
    assert table[schema.ROW].to_pylist() == [1, 2, 3]


def test_a_manifest_of_before_rows_were_numbered_is_refused_with_the_remedy(
    versions: list[Manifest],
) -> None:
    record = Path(versions[0].uri) / "versions" / "000001.json"
    assert record.exists(), sorted(record.parent.iterdir())
    older = json.loads(record.read_text())
    for part in older["parts"]:
        del part["dead_rows"]
    record.write_text(json.dumps(older))
    with pytest.raises(ValueError, match=r"of an earlier format: list .* anew with jobs.index"):
        open_manifest(versions[0].uri, 1)
