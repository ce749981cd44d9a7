"""What a cycle trains on and what it keeps back, on a corpus that grows."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines import schema
from pipelines.corpus.listed_rows import LISTED, sample_id
from pipelines.corpus.manifest import Manifest, open_manifest
from pipelines.corpus.manifest_writer import write_manifest
from pipelines.retraining.drawn_rows import drawn, lowest
from pipelines.retraining.mixture import HELD_OUT, Ages, Mixture
from pipelines.stream.ledger import Ledger, Span
from pipelines.stream.plan import Plan


def listed(names: range) -> pa.Table:
    rows = [
        {
            "sample_id": sample_id(f"/c/{name}.jpg", None, "a"),
            "uri": f"/c/{name}.jpg",
            "offset": 0,
            "length": 1,
            "etag": "a",
            "media": "image",
        }
        for name in names
    ]
    return pa.Table.from_pylist(rows, schema=LISTED)


def ids(manifest: Manifest) -> set[int]:
    found = set[int]()
    for part, group, _ in manifest.row_groups():
        found |= set(manifest.read_row_group(part, group)[schema.SAMPLE_ID].to_pylist())
    return found


@pytest.fixture
def grown(tmp_path: Path) -> tuple[Manifest, Manifest]:
    """A corpus of 4,000 samples, and the same with 1,000 more and 100 gone."""
    uri = str(tmp_path / "m")
    before = write_manifest(uri, "/c", [listed(range(4000))])
    return before, write_manifest(uri, "/c", [listed(range(100, 5000))])


def test_old_and_new_are_told_by_the_version_that_was_trained_on(
    grown: tuple[Manifest, Manifest],
) -> None:
    before, after = grown
    ages = Ages.since(after, before)
    assert (ages.num_old, ages.num_new) == (3900, 1000)
    everything = Ages.since(after, None)
    assert (everything.num_old, everything.num_new) == (0, 4900)


def test_what_is_held_out_stays_so_while_the_corpus_grows(
    grown: tuple[Manifest, Manifest],
) -> None:
    before, after = grown
    ages = Ages.since(after, before)
    first = lowest(before, 100, HELD_OUT, below=0.1)[schema.SAMPLE_ID].to_pylist()
    assert len(first) == 100
    numbers = drawn(np.array(first), HELD_OUT)
    assert (np.diff(numbers) > 0).all() and numbers[-1] < 0.1
    old = lowest(after, 60, HELD_OUT, parts=ages.old_parts, below=0.1)
    gone = ids(before) - ids(after)
    assert set(old[schema.SAMPLE_ID].to_pylist()) <= set(first) - gone
    new = lowest(after, 60, HELD_OUT, parts=ages.new_parts, below=0.1)
    assert not set(new[schema.SAMPLE_ID].to_pylist()) & ids(before)
    assert lowest(after, 10**6, HELD_OUT, below=0.02).num_rows == pytest.approx(98, abs=40)
    assert lowest(after, 5, HELD_OUT, parts=()).num_rows == 0


def test_a_mixture_holds_the_new_samples_and_a_share_of_the_old_ones(
    grown: tuple[Manifest, Manifest], tmp_path: Path
) -> None:
    before, after = grown
    ages = Ages.since(after, before)
    mixture = Mixture(ages, 0.25, (0.02, 0.05), "2026-11-29")
    made = mixture.write(str(tmp_path / "mixture"), {"slot": "2026-11-29"})
    taken = ids(made)
    fresh = ids(after) - ids(before)
    kept_back = {one for one in fresh if drawn(np.array([one]), HELD_OUT)[0] <= 0.05}
    assert kept_back and taken & fresh == fresh - kept_back
    replayed = taken - fresh
    assert len(replayed) / len(taken) == pytest.approx(0.25, abs=0.04)
    assert not any(drawn(np.array(sorted(replayed)), HELD_OUT) <= 0.02)
    other = Mixture(ages, 0.25, (0.02, 0.05), "2026-11-30")
    again = ids(other.write(str(tmp_path / "other"), {}))
    assert (again & fresh) == (taken & fresh) and (again - fresh) != replayed
    everything = Mixture(ages, None, (-1.0, -1.0), "x").write(str(tmp_path / "all"), {})
    assert ids(everything) == ids(after)


def test_a_mixture_is_a_manifest_that_plans_read_and_keeps_row_numbers(
    grown: tuple[Manifest, Manifest], tmp_path: Path
) -> None:
    before, after = grown
    place = str(tmp_path / "mixture")
    mixture = Mixture(Ages.since(after, before), 0.5, (0.05, 0.05), "a")
    made = mixture.write(place, {})
    reopened = open_manifest(place)
    assert reopened == mixture.write(place, {}) == made  # a second command takes what is there
    assert reopened.num_rows == len(ids(reopened)) and reopened.num_stored == after.num_stored
    plan = Plan.open(place, Ledger(0, (Span(0, reopened.version, 1),)), seed=1)
    shown = pa.concat_tables(plan.rows(0, plan.positions(1)))
    assert sorted(shown[schema.SAMPLE_ID].to_pylist()) == sorted(ids(reopened))
    rows = {
        one: row
        for part, group, _ in after.row_groups()
        for one, row in zip(
            *after.read_row_group(part, group)
            .select([schema.SAMPLE_ID, schema.ROW])
            .to_pydict()
            .values(),
            strict=True,
        )
    }
    for one, row in zip(
        shown[schema.SAMPLE_ID].to_pylist(), shown[schema.ROW].to_pylist(), strict=True
    ):
        assert rows[one] == row
    with pytest.raises(ValueError, match="nothing of"):
        Mixture(Ages.since(after, before), 0.5, (1.0, 1.0), "a").write(str(tmp_path / "none"), {})
