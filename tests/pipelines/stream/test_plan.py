from collections import Counter
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import schema
from pipelines.corpus.manifest import Manifest, Part
from pipelines.stream.orders import ManifestOrder
from pipelines.stream.plan import Plan


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """60 rows in two parts with row groups of 7, 13, 20 and 20."""
    groups = {"a.parquet": (7, 13), "b.parquet": (20, 20)}
    first = 0
    for name, sizes in groups.items():
        with pq.ParquetWriter(tmp_path / name, schema.MANIFEST) as writer:
            for size in sizes:
                rows = [
                    {
                        "sample_id": i,
                        "uri": f"/{i}",
                        "offset": 0,
                        "length": 1,
                        "member": None,
                        "etag": "",
                        "media": "image",
                    }
                    for i in range(first, first + size)
                ]
                writer.write_table(pa.Table.from_pylist(rows, schema=schema.MANIFEST))
                first += size
    return Manifest(
        str(tmp_path), 1, "/", tuple(Part(name, sizes) for name, sizes in groups.items())
    )


def ids(plan: Plan | ManifestOrder, start: int, stop: int) -> list[int]:
    return [i for table in plan.rows(start, stop) for i in table[schema.SAMPLE_ID].to_pylist()]


def test_every_epoch_holds_every_sample_once_in_another_order(manifest: Manifest) -> None:
    plan = Plan.fresh(manifest, seed=0)
    epochs = [ids(plan, 60 * epoch, 60 * (epoch + 1)) for epoch in range(3)]
    assert all(sorted(epoch) == list(range(60)) for epoch in epochs)
    others = [*epochs, ids(Plan.fresh(manifest, seed=1), 0, 60)]
    assert len(set(map(tuple, others))) == 4


def test_every_window_has_a_permutation_of_its_own_in_every_epoch(manifest: Manifest) -> None:
    plan = Plan.fresh(manifest, seed=0)
    orders = []
    for start in range(0, 180, 60):
        epoch = ids(plan, start, start + 60)
        # The two row groups of 20 rows begin with samples 20 and 40.
        orders += [tuple(i - first for i in epoch if 0 <= i - first < 20) for first in (20, 40)]
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert len(set(orders)) == 6


def test_the_row_groups_of_every_epoch_come_in_another_order(manifest: Manifest) -> None:
    plan = Plan.fresh(manifest, seed=0)
    ends = (7, 20, 40, 60)
    orders = set()
    for start in range(0, 360, 60):
        groups = [
            next(g for g, end in enumerate(ends) if i < end) for i in ids(plan, start, start + 60)
        ]
        orders.add(tuple(dict.fromkeys(groups)))
    assert len(orders) > 2


def test_an_epoch_is_shuffled_within_row_groups_too(manifest: Manifest) -> None:
    epoch = ids(Plan.fresh(manifest, seed=0), 0, 60)
    neighbours = sum(after == before + 1 for before, after in pairwise(epoch))
    assert neighbours < 15


def test_any_cut_gives_the_same_sequence(manifest: Manifest) -> None:
    plan = Plan.fresh(manifest, seed=5)
    whole = ids(plan, 0, 200)
    for size in (1, 7, 16, 64, 199):
        assert [
            i for start in range(0, 200, size) for i in ids(plan, start, min(start + size, 200))
        ] == whole


def test_positions_and_epochs_are_attached(manifest: Manifest) -> None:
    rows = pa.concat_tables(Plan.fresh(manifest, seed=0).rows(50, 130))
    assert rows[schema.POSITION].to_pylist() == list(range(50, 130))
    assert Counter(rows[schema.EPOCH].to_pylist()) == {0: 10, 1: 60, 2: 10}


def test_export_order_is_the_manifest_s(manifest: Manifest) -> None:
    assert ids(ManifestOrder(manifest), 5, 45) == list(range(5, 45))
