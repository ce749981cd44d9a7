"""Parts answer for every stored row of a manifest once, whatever versions there were."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines import schema
from pipelines.corpus.listed_rows import LISTED
from pipelines.corpus.manifest import Manifest
from pipelines.corpus.manifest_writer import write_manifest
from pipelines.embeddings.parts import LiveRows, changed, part_name, rows_of, uncovered
from pipelines.stream.orders import ManifestOrder


def version(folder: Path, names: range, without: int = 0) -> Manifest:
    """List files of such numbers, but for those that a number divides."""
    rows = [
        {
            "sample_id": 7919 * name % 10007,
            "uri": f"/photos/{name}.jpg",
            "offset": 0,
            "length": 1,
            "etag": "e",
            "media": "image",
        }
        for name in names
        if not (without and name % without == 0)
    ]
    return write_manifest(str(folder), "/photos", [pa.Table.from_pylist(rows, schema=LISTED)])


def ids(manifest: Manifest, first: int, last: int) -> list[int]:
    tables = ManifestOrder(manifest).rows(first, last)
    return [one for table in tables for one in table[schema.SAMPLE_ID].to_pylist()]


def test_a_name_says_which_rows_a_part_answers_for() -> None:
    assert rows_of(part_name((16, 40))) == (16, 40)
    assert rows_of(part_name((16, 40), ".json")) == (16, 40)
    assert rows_of("part-1.parquet") is None


def test_gaps_between_parts_are_found() -> None:
    assert uncovered((0, 10), []) == [(0, 10)]
    assert uncovered((0, 10), [(6, 8), (0, 3)]) == [(3, 6), (8, 10)]
    assert uncovered((0, 10), [(0, 10)]) == []


def test_parts_of_any_version_tile_the_stored_rows_and_hold_each_live_row_once(
    tmp_path: Path,
) -> None:
    first = version(tmp_path, range(100))
    second = version(tmp_path, range(130), without=3)  # a third gone, 30 new
    assert (first.num_stored, second.num_stored) == (100, 120)
    for manifest in (first, second):
        live = LiveRows(manifest)
        # some end in a row that is gone
        ranges = [(0, manifest.num_stored), (40, 41), *((17, end) for end in range(86, 91))]
        for begin, end in ranges:
            parts = list(live.parts((begin, end), 16))
            bounds = [rows for _, rows in parts]
            assert [start for start, _ in bounds] == [begin, *(stop for _, stop in bounds[:-1])]
            assert not bounds or bounds[-1][1] == end
            sizes = [stop - start for (start, stop), _ in parts]
            assert all(size == 16 for size in sizes[:-1])
            row = np.concatenate(
                [
                    table[schema.ROW].to_numpy()
                    for (start, stop), _ in parts
                    for table in ManifestOrder(manifest).rows(start, stop)
                ]
            )
            assert len(row) == sum(sizes) == live.before(end) - live.before(begin)
            for (start, stop), (low, high) in parts:
                of_part = row[start - parts[0][0][0] : stop - parts[0][0][0]]
                assert low <= of_part.min() and of_part.max() < high
        positions = [one for one, _ in live.parts((0, 1000), 16)]
        found = [one for begin, end in positions for one in ids(manifest, begin, end)]
        assert sorted(found) == sorted(ids(manifest, 0, manifest.num_rows))


def test_only_parts_that_lost_rows_are_changed(tmp_path: Path) -> None:
    first = version(tmp_path, range(100))
    live = LiveRows(first)
    parts = [rows for _, rows in live.parts((0, 100), 20)]
    gone = set(ids(first, 45, 46))
    number = next(name for name in range(100) if 7919 * name % 10007 in gone)
    second = version(tmp_path, range(100), without=number)
    touched = changed(parts, second, first)
    assert (40, 60) in touched and len(touched) < 5
    assert changed(parts, second, None) == touched
    assert changed(parts, second, second) == []
