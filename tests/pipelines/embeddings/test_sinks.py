"""What a part of an export holds, and what is no part."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import schema
from pipelines.embeddings.provenance import Provenance
from pipelines.embeddings.sinks import EmbeddingSink, part_name, parts
from pipelines.stream.orders import Listed

NUM_ROWS = 40
DIM = 3


def sink(folder: Path, *, half: bool = False) -> EmbeddingSink:
    rows = [
        {"sample_id": number, "uri": f"/{number}.jpg", "offset": 0, "length": 1}
        for number in range(NUM_ROWS)
    ]
    order = Listed(pa.Table.from_pylist(rows, schema=schema.MANIFEST))
    told = Provenance("/", 1, {})
    return EmbeddingSink(str(folder), order, NUM_ROWS, 16, "digest", half, told)  # type: ignore[arg-type]


def batch(start: int, stop: int) -> dict[str, np.ndarray]:
    positions = np.arange(start, stop)
    times = {name: np.full(len(positions), np.nan) for name in (schema.START_S, schema.END_S)}
    return {
        schema.POSITION: positions,
        schema.VALID: positions % 5 != 0,
        schema.EMBEDDING: np.repeat(positions[:, None], DIM, axis=1) / 3,
        schema.RETRIES: np.ones(len(positions), np.float32),
        **times,
    }


def test_the_ranges_of_the_parts_hold_every_row_once() -> None:
    assert parts(40, 16) == [(0, 16), (16, 32), (32, 40)]
    assert parts(32, 16) == [(0, 16), (16, 32)]


@pytest.mark.parametrize("half", [False, True])
def test_a_whole_part_is_written_without_the_samples_that_could_not_be_used(
    half: bool, tmp_path: Path
) -> None:
    counts = sink(tmp_path, half=half).write(batch(16, 32))
    assert {name: value.tolist() for name, value in counts.items()} == {
        "rows": [13],
        "quarantined": [3],
        "retries": [16],
    }
    table = pq.read_table(tmp_path / part_name(16, 32))
    kept = [number for number in range(16, 32) if number % 5]
    assert table[schema.SAMPLE_ID].to_pylist() == kept
    assert table[schema.URI].to_pylist() == [f"/{number}.jpg" for number in kept]
    kind = table.schema.field(schema.EMBEDDING).type
    assert kind == pa.list_(pa.float16() if half else pa.float32(), DIM)
    values = np.array(table[schema.EMBEDDING].to_pylist(), np.float32)
    assert np.allclose(values, np.repeat(np.array(kept)[:, None] / 3, DIM, axis=1), rtol=1e-3)


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
    with pytest.raises(RuntimeError, match=f"rows {start} to {stop} do not make one part of 16"):
        sink(tmp_path).write(batch(start, stop))
    assert list(tmp_path.iterdir()) == []


def test_a_part_with_a_gap_is_refused(tmp_path: Path) -> None:
    whole = batch(0, 16)
    gap = {name: np.delete(column, 4, axis=0) for name, column in whole.items()}
    with pytest.raises(RuntimeError, match="do not make one part"):
        sink(tmp_path).write(gap)
    assert list(tmp_path.iterdir()) == []


def test_the_last_part_may_be_shorter(tmp_path: Path) -> None:
    sink(tmp_path).write(batch(32, 40))
    assert [path.name for path in tmp_path.iterdir()] == [part_name(32, 40)]
