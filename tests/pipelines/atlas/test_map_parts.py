"""Parts of an atlas: what is chosen, where it lies, what is near, and the codes of colours."""

import datetime
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.atlas import near_points, projection, script_files
from pipelines.atlas.chosen import Chosen, keys_of, lowest
from pipelines.atlas.colours import CLASSES, MISSING, ColumnCodes, of_codes, of_numbers, shown_value
from pipelines.atlas.near_points import Near
from pipelines.atlas.thumbnails import Thumbnails
from pipelines.media.contract import Limits


def two_heaps(count: int) -> np.ndarray:
    """Vectors of length 1 around two directions, every other one around the second."""
    rng = np.random.default_rng(0)
    centres = np.eye(8, dtype=np.float32)[[0, 4]]
    vectors = centres[np.arange(count) % 2] + rng.normal(0, 0.1, (count, 8)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def test_a_sample_is_chosen_by_its_id_whatever_else_is_there() -> None:
    ids = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 2000)
    chosen = set(ids[lowest(keys_of(ids, 3), 500)].tolist())
    half = ids[:1000]
    of_half = set(half[lowest(keys_of(half, 3), 250)].tolist())
    assert len(chosen) == 500
    assert chosen & set(half.tolist()) <= of_half or of_half <= chosen
    shuffled = ids[::-1].copy()
    assert set(shuffled[lowest(keys_of(shuffled, 3), 500)].tolist()) == chosen
    assert set(ids[lowest(keys_of(ids, 4), 500)].tolist()) != chosen


def test_a_map_keeps_heaps_apart_and_places_further_samples_beside_their_own_again_alike() -> None:
    pytest.importorskip("pacmap")
    vectors = two_heaps(240)
    learnt = projection.learn(vectors[:200], 5, num_threads=1)
    again = projection.learn(vectors[:200], 5, num_threads=1)
    assert np.array_equal(learnt.positions, again.positions)
    placed = learnt.place(vectors[200:])
    centres = np.stack([learnt.positions[side::2].mean(0) for side in (0, 1)])
    apart = np.linalg.norm(centres[0] - centres[1])
    own = np.linalg.norm(placed - centres[np.arange(40) % 2], axis=1)
    assert own.max() < apart / 2
    assert np.array_equal(learnt.place(vectors[200:207]), placed[:7])


@pytest.mark.parametrize("count", [1, 2, 15])
def test_few_samples_lie_along_their_main_directions(count: int) -> None:
    vectors = two_heaps(count)
    learnt = projection.learn(vectors, 0, num_threads=1)
    assert learnt.positions.shape == (count, 2) and np.isfinite(learnt.positions).all()
    assert len(np.unique(learnt.positions, axis=0)) == count
    same = projection.learn(np.repeat(vectors[:1], 20, axis=0), 0, num_threads=1)
    assert not same.positions.any()


def test_points_in_the_order_of_the_map_lie_near_those_before_them() -> None:
    positions = np.random.default_rng(0).random((4096, 2), np.float32)
    order = projection.along_a_curve(positions)
    assert sorted(order.tolist()) == list(range(4096))
    steps = np.linalg.norm(np.diff(positions[order], axis=0), axis=1)
    assert np.median(steps) < 0.03  # at random: 0.5
    assert projection.along_a_curve(np.zeros((3, 2), np.float32)).tolist() == [0, 1, 2]


def test_neighbours_are_the_nearest_by_cosine_and_never_the_sample_itself() -> None:
    class Stored:
        dim = 8

    vectors = two_heaps(60)
    vectors[7] = vectors[9] = vectors[11]  # copies crowd a sample out of its own answer
    everything = np.arange(60)
    told = list[int]()
    chosen = Chosen(Stored(), everything, everything, everything, vectors, 0)  # type: ignore[arg-type]
    found = near_points.find(chosen, 4, seed=0, num_threads=1, tell=told.append)
    assert told == [60]
    cosine = vectors @ vectors.T
    np.fill_diagonal(cosine, -2)
    assert (found.points != everything[:, None]).all()
    assert np.allclose(found.cosine, -np.sort(-cosine, axis=1)[:, :4], atol=1e-5)

    order = np.random.default_rng(0).permutation(60)
    moved = found.renumbered(order)
    assert np.array_equal(order[moved.points], found.points[order])
    few = Near(np.array([[1, -1], [0, -1]], np.int32), np.zeros((2, 2)), 1.0)
    assert few.renumbered(np.array([1, 0])).points.tolist() == [[1, -1], [0, -1]]


def test_classes_are_coded_by_size_with_codes_for_the_rest_and_for_none() -> None:
    column = ColumnCodes("label", pa.string())
    words = [f"class {number}" for number in range(CLASSES + 5)]
    for piece in (["cat", None, "dog"], [], ["dog", "bird"], words):
        column.add(pa.chunked_array([pa.array(piece, pa.string())]))
    made = column.colour()
    assert made.classes[0] == ("dog", 2) and made.missing == 1
    assert made.classes[-1] == ("8 other classes", 8) and made.others == 8
    assert made.codes[:5].tolist()[1] == MISSING and made.codes[2] == made.codes[3] == 1
    assert len(made.classes) == CLASSES + 1 and made.codes.max() == CLASSES + 1

    versions = of_codes("version", np.array([2, 0, 2, -1]), ["v1", "v2", "v3"], by_count=False)
    assert versions.classes == [("v1", 1), ("v3", 2)] and versions.codes.tolist() == [2, 1, 2, 0]


def test_numbers_and_times_are_steps_and_ids_and_captions_are_not_classes() -> None:
    made = of_numbers("size", np.array([np.nan, 0, 50, 100, np.inf]))
    assert made.missing == 2 and made.codes[[0, 4]].tolist() == [MISSING, MISSING]
    assert made.codes[1] == 1 and made.codes[3] == 65535 and 32000 < made.codes[2] < 33500

    days = [datetime.datetime(2026, 1, day, tzinfo=datetime.UTC) for day in (1, 3)]
    time = ColumnCodes("taken", pa.timestamp("us", "UTC"))
    time.add(pa.chunked_array([pa.array([*days, None], pa.timestamp("us", "UTC"))]))
    told = time.colour()
    assert told.kind == "time" and told.missing == 1
    assert days[0].timestamp() < told.low < told.high < days[1].timestamp()

    labels = ColumnCodes("label", pa.int64())
    labels.add(pa.chunked_array([pa.array([3, 3, None, 1, *range(100)])]))
    assert labels.colour().kind == "class" and labels.colour().classes[0] == ("3", 3)
    lengths = ColumnCodes("length", pa.int64())
    lengths.add(pa.chunked_array([pa.array(range(100))]))
    assert lengths.colour().kind == "number"
    captions = ColumnCodes("caption", pa.string())
    captions.add(pa.chunked_array([pa.array([f"word {number}" for number in range(20_000)])]))
    assert captions.is_unfit
    assert not ColumnCodes.takes(pa.list_(pa.int64()))
    assert shown_value(2**60) == str(2**60) and shown_value(float("nan")) is None


def test_data_files_hold_whatever_a_name_says_as_text(tmp_path: Path) -> None:
    place = str(tmp_path / "rows.js")
    hostile = "</script><script>alert(1)</script>\u2028\"'\\"
    numbers = np.array([1.5, -2], np.float32)
    script_files.write(place, "rows", 3, {"uri": [hostile]}, script_files.packed(numbers))
    text = Path(place).read_text()
    assert text.startswith("atlas.rows(3,") and "\u2028" not in text
    number, columns, _ = script_files.read(place, "rows")
    assert number == 3 and columns["uri"] == [hostile]
    with pytest.raises(ValueError, match="JSON"):
        script_files.write(place, "rows", float("nan"))
    assert json.loads(text[len("atlas.rows(") : -3].partition(",")[0]) == 3


def test_only_thumbnail_files_that_are_missing_are_made(tmp_path: Path) -> None:
    for name in ("000000.js", "000002.js", "other.js"):
        (tmp_path / name).write_text("")
    work = Thumbnails(None, "", 64 * 4 + 1, str(tmp_path), 64, Limits())  # type: ignore[arg-type]
    assert work.missing() == [1, 3, 4]
