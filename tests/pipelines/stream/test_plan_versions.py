"""A run that is resumed onto newer manifest versions reads every sample of each epoch once."""

import json
import pickle
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines import schema
from pipelines.stream import stretch
from pipelines.stream.ledger import Ledger, Span
from pipelines.stream.plan import Plan


@dataclass(frozen=True)
class Part:
    path: str
    dead_rows: tuple[int, ...] = (1,)  # there may be some


@dataclass(frozen=True, eq=False)
class Version:
    """A manifest version in memory: row groups of sample ids, each row group a part of its own."""

    version: int
    groups: tuple[tuple[int, ...], ...]
    uri: str = "memory"

    @property
    def parts(self) -> list[Part]:
        return [Part(str(index)) for index in range(len(self.groups))]

    @property
    def num_rows(self) -> int:
        return sum(map(len, self.groups))

    def row_groups(self) -> list[tuple[int, int, int]]:
        return [(index, 0, len(group)) for index, group in enumerate(self.groups)]

    def read_row_group(self, part: int, row_group: int) -> pa.Table:
        return pa.table({schema.SAMPLE_ID: pa.array(self.groups[part], pa.int64())})


def groups(first: int, *sizes: int) -> tuple[tuple[int, ...], ...]:
    ends = np.cumsum([first, *sizes]).tolist()
    return tuple(tuple(range(a, b)) for a, b in pairwise(ends))


OLD = Version(1, groups(0, 7, 13, 20, 20))
# A later one: 8 rows gone, one row group with all of its rows, and two new row groups.
NEW = Version(
    2,
    (
        OLD.groups[0],
        (),
        tuple(i for i in OLD.groups[2] if i % 7),
        OLD.groups[3],
        *groups(100, 9, 16),
    ),
)
NEWEST = Version(3, (*NEW.groups[:4], NEW.groups[4][:4], NEW.groups[5], *groups(200, 11)))
GONE = set(range(60)) - {i for group in NEW.groups for i in group}


def plan_of(*spans: tuple[int, Version, int], position: int = 0) -> Plan:
    ledger = Ledger(
        position, tuple(Span(start, version.version, width) for start, version, width in spans)
    )
    return Plan(tuple(version for _, version, _ in spans), ledger, seed=4)  # type: ignore[arg-type]


def read(plan: Plan, start: int, stop: int) -> list[tuple[int, int]]:
    """Epoch and sample of the positions [start, stop)."""
    table = pa.concat_tables(plan.rows(start, stop))
    assert table[schema.POSITION].to_pylist() == list(range(start, stop))
    return list(
        zip(table[schema.EPOCH].to_pylist(), table[schema.SAMPLE_ID].to_pylist(), strict=True)
    )


def by_epoch(rows: list[tuple[int, int]]) -> dict[int, Counter[int]]:
    return {epoch: Counter(sample for e, sample in rows if e == epoch) for epoch, _ in rows}


@pytest.mark.parametrize("interleave", [1, 2, 3, 9])
def test_windows_of_row_groups_hold_every_sample_once_an_epoch(interleave: int) -> None:
    plan = plan_of((0, OLD, interleave))
    assert by_epoch(read(plan, 0, 180)) == {epoch: Counter(range(60)) for epoch in range(3)}
    assert [
        row for start in range(0, 180, 11) for row in read(plan, start, min(start + 11, 180))
    ] == read(plan, 0, 180)


def test_interleaved_row_groups_are_mixed() -> None:
    def runs(interleave: int) -> int:
        groups = [
            next(i for i, g in enumerate(OLD.groups) if s in g)
            for _, s in read(plan_of((0, OLD, interleave)), 0, 60)
        ]
        return sum(a != b for a, b in pairwise(groups))

    assert runs(1) == 3
    assert runs(4) > 25


@pytest.mark.parametrize("interleave", [1, 3])
@pytest.mark.parametrize("switch", [1, 5, 20, 33, 59, 60, 61, 130])
def test_a_newer_version_joins_the_running_epoch(switch: int, interleave: int) -> None:
    old = read(plan_of((0, OLD, interleave)), 0, switch)
    plan = plan_of((0, OLD, interleave), (switch, NEW, interleave))
    running = switch // 60
    total = plan.positions(running + 2)
    rows = read(plan, 0, total)
    assert rows[:switch] == old  # what was consumed stays what it was
    seen = by_epoch(rows)
    consumed = {sample for epoch, sample in old if epoch == running}
    fresh = {i for group in NEW.groups for i in group}
    # gone rows only if they had been consumed before
    assert seen[running] == Counter(fresh | consumed)
    assert seen[running + 1] == Counter(fresh)
    assert [
        row for start in range(0, total, 13) for row in read(plan, start, min(start + 13, total))
    ] == rows


def test_several_versions_may_join_one_epoch() -> None:
    plan = plan_of((0, OLD, 2), (10, NEW, 1), (25, NEWEST, 3))
    first = read(plan_of((0, OLD, 2), (10, NEW, 1)), 0, 25)
    rows = read(plan, 0, plan.positions(3))
    assert rows[:25] == first
    newest = {i for group in NEWEST.groups for i in group}
    seen = by_epoch(rows)
    assert seen[0] == Counter(newest | {sample for _, sample in first})
    assert seen[1] == seen[2] == Counter(newest)


@pytest.mark.parametrize("interleave", [1, 3])
@pytest.mark.parametrize("switch", [1, 20, 33, 59])
def test_what_went_and_came_back_is_shown_once_in_the_running_epoch(
    switch: int, interleave: int
) -> None:
    back = Version(3, (*NEW.groups, tuple(sorted(GONE)), tuple(range(300, 305))))
    everything = {i for group in back.groups for i in group}
    for spans in (((switch, NEW), (switch + 1, back)), ((switch, back),)):
        joined = [(position, version, interleave) for position, version in spans]
        plan = plan_of((0, OLD, interleave), *joined)
        seen = by_epoch(read(plan, 0, plan.positions(2)))
        assert seen[0] == seen[1] == Counter(everything)


def later(before: Version, ever: set[int], chance: np.random.Generator) -> Version:
    """Make a version from which some samples went, to which some came back, and some are new."""
    loss = chance.choice([0.0, 0.1, 0.5])
    kept = tuple(tuple(i for i in group if chance.random() >= loss) for group in before.groups)
    gone = sorted(ever - {i for group in kept for i in group})
    back = [i for i in gone if chance.random() < 0.5]
    new = list(range(len(ever), len(ever) + int(chance.integers(1, 20))))
    ever.update(new)
    rows = chance.permutation(back + new)
    edges = np.sort(chance.integers(0, len(rows), size=2))
    added = tuple(tuple(group.tolist()) for group in np.split(rows, edges) if len(group))
    return Version(before.version + 1, (*kept, *added))


def live(version: Version) -> set[int]:
    return {i for group in version.groups for i in group}


@pytest.mark.parametrize("seed", range(100))
def test_whatever_comes_and_goes_every_sample_is_seen_once_an_epoch(seed: int) -> None:
    chance = np.random.default_rng(seed)
    ever = set(range(60))
    versions = [OLD]
    ledger = Ledger(0, ())
    consumed: list[tuple[int, int]] = []
    for _ in range(int(chance.integers(2, 7))):  # each start but the last dies
        if chance.random() < 0.8:
            versions.append(later(versions[-1], ever, chance))
        ledger = ledger.onto(versions[-1].version, int(chance.integers(1, 6)))
        spans = [(s.position, versions[s.version - 1], s.interleave) for s in ledger.spans]
        plan = plan_of(*spans, position=ledger.position)
        stop = ledger.position + int(chance.integers(1, 90))
        rows = read(plan, 0, stop)
        assert rows[: len(consumed)] == consumed
        committed = int(chance.integers(ledger.position, stop + 1))
        consumed = rows[:committed]
        ledger = ledger.at(committed)
    running = rows[-1][0]
    before = by_epoch(rows[: spans[-1][0]]).get(running, Counter[int]())
    seen = by_epoch(read(plan, 0, plan.positions(running + 2)))
    assert all(max(counts.values()) == 1 for counts in seen.values())
    assert set(seen[running]) == live(versions[-1]) | set(before)
    assert set(seen[running + 1]) == live(versions[-1])


def test_positions_count_epochs_of_different_length() -> None:
    plan = plan_of((0, OLD, 1), (60, NEW, 1))
    size = NEW.num_rows
    assert [plan.positions(n) for n in (1, 2, 2.5)] == [60, 60 + size, 60 + size + size // 2]
    assert plan.positions(0.5) == 30


def test_a_manifest_made_anew_is_refused() -> None:
    replaced = Version(2, groups(500, 5))
    with pytest.raises(ValueError, match="does not continue version 1"):
        read(plan_of((0, OLD, 1), (30, replaced, 1)), 0, 40)


def test_a_ledger_takes_a_version_only_from_its_position_on() -> None:
    fresh = Ledger(0, ()).onto(1, interleave=1)
    assert fresh.spans == (Span(0, 1, 1),)
    assert fresh.onto(2, 1).spans == (Span(0, 2, 1),)  # nothing was consumed of version 1
    later = fresh.at(40).onto(2, 1)
    assert later.spans == (Span(0, 1, 1), Span(40, 2, 1))
    assert later.onto(2, 1) == later
    # stopped again before a step was committed
    assert later.onto(3, 4).spans == (
        Span(0, 1, 1),
        Span(40, 3, 4),
    )
    assert later.at(40).onto(1, 1).spans == (Span(0, 1, 1),)
    assert Ledger.from_dict(json.loads(json.dumps(later.as_dict()))) == later


def test_a_plan_travels_with_its_layout(tmp_path: Path) -> None:
    plan = plan_of((0, OLD, 1), (33, NEW, 2))
    expected = read(plan, 0, 150)
    assert read(pickle.loads(pickle.dumps(plan)), 0, 150) == expected


def test_the_order_of_an_epoch_is_drawn_once_however_many_items_ask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[int] = []
    draw = stretch.permutation

    def counted(size: int, *, seed: int, epoch: int, stream: int) -> np.ndarray:
        if stream < 0:  # of row groups, not of the rows of a window
            drawn.append(epoch)
        return draw(size, seed=seed, epoch=epoch, stream=stream)

    plan = plan_of((0, OLD, 2))
    expected = read(plan_of((0, OLD, 2)), 0, 180)
    monkeypatch.setattr(stretch, "permutation", counted)
    assert [row for start in range(0, 180, 5) for row in read(plan, start, start + 5)] == expected
    assert drawn == [0, 1, 2]


def test_as_many_rows_that_come_back_do_not_hide_that_others_went() -> None:
    # Of the first row group sample 6 was taken out; then 0 is deleted, 6 is brought back, and the
    # file of 0 comes back as a new row.
    taken = Version(1, (tuple(range(6)), *OLD.groups[1:]))
    back = Version(2, (tuple(range(1, 7)), *OLD.groups[1:], (0, 77)))
    for position in range(1, 60):
        shown = read(plan_of((0, taken, 1), (position, back, 1)), 0, 120)
        assert max(by_epoch(shown)[0].values()) == 1
