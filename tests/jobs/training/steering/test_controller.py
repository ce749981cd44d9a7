"""What lives in Ray Train's controller: which failures end a run, and the streams of its groups."""

import copy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray
from ray.data import Dataset
from ray.exceptions import ActorDiedError, OutOfMemoryError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from jobs.setup.failures import InputError
from jobs.training import checkpoints
from jobs.training.steering.controller import FailureRule, OrderedStreams, TooManyFailures
from pipelines import ray_internals
from pipelines.stream.ledger import Ledger, Span
from pipelines.stream.sealed import Deal, SealedStream


class Local:
    """A monitor's `fail` and `log` in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.failures: list[Exception] = []
        self.lines: list[dict[str, Any]] = []
        self.fail = self.log = self
        monkeypatch.setattr(ray, "get", lambda reference: reference)

    def remote(self, what: Any) -> None:
        if isinstance(what, Exception):
            self.failures.append(what)
        else:
            self.lines.append(what)


def test_only_failures_without_progress_between_them_end_a_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    steps = iter([0, 0, 0, 5, 5, 9, 9, 9])  # committed when the rule begins and at each failure
    monkeypatch.setattr(checkpoints, "committed_step", lambda run: next(steps))
    monitor = Local(monkeypatch)
    rule = FailureRule(monitor, str(tmp_path), max_failures=2)
    for _ in range(6):
        rule.after_exception(None, {0: KeyError("x")})
    assert monitor.failures == []
    rule.after_exception(None, {0: KeyError("x")})
    (failure,) = monitor.failures
    assert isinstance(failure, TooManyFailures) and "3 failures in a row" in str(failure)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_node_that_was_announced_to_leave_does_not_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wrapped: bool
) -> None:
    monitor = Local(monkeypatch)
    rule = FailureRule(monitor, str(tmp_path), max_failures=0)
    announced: Exception = ActorDiedError()
    announced._preempted = True  # type: ignore[attr-defined]
    if wrapped:  # as it comes where Train's next look at the worker fails
        announced = WorkerHealthCheckFailedError("A worker health check failed.", announced)
    rule.after_exception(None, {0: KeyError("follows from it"), 1: announced})
    assert monitor.failures == []
    rule.after_exception(None, {0: InputError("a.b is 3")})
    assert [str(failure) for failure in monitor.failures] == ["a.b is 3"]


def health(failure: Exception) -> WorkerHealthCheckFailedError:
    """What Train makes of a worker whose process ended."""
    return WorkerHealthCheckFailedError("A worker health check failed.\nWorker info: ...", failure)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            health(
                OutOfMemoryError(
                    "6 worker(s) were killed due to the node running low on memory. Memory on the"
                    " node (IP: 192.0.2.2, ID: ee6b) was 22.53GB used / 23.54GB limit (0.957)\n..."
                )
            ),
            "not enough memory (22.53GB of 23.54GB of its node's in use): a smaller"
            " global_batch_size",
        ),
        (
            RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB.\nmore"),
            "not enough memory (CUDA out of memory. Tried to allocate 20.00 GiB.): a smaller",
        ),
        (health(ActorDiedError()), "ActorDiedError: The actor died unexpectedly"),
        (KeyError("x"), "KeyError: 'x'"),
    ],
)
def test_why_workers_start_again_is_told_and_what_helps(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, said: str
) -> None:
    monitor = Local(monkeypatch)
    rule = FailureRule(monitor, str(tmp_path), max_failures=1)
    follows = [] if isinstance(error, KeyError) else [ConnectionError("a peer is gone")]
    for _ in range(2):
        rule.after_exception(None, dict(enumerate([*follows, error])))
    warning, waiting = monitor.lines
    assert warning["warning"].startswith(f"a training worker failed: {said}")
    assert waiting == {"waiting": "starting the training workers again"}
    assert f"cluster.max_failures=1; the last: {said}" in str(monitor.failures[0])


def rows_of(items: pa.Table, deal: Deal) -> Iterator[dict[str, np.ndarray]]:
    """Blocks of the positions of plan items."""
    for item in items.to_pylist():
        positions = pa.table({"position": np.arange(item["start"], item["stop"])})
        for block in deal.blocks(iter([positions])):
            yield {"position": np.array(block["position"])}


@pytest.mark.usefixtures("ray_session")
def test_a_copy_of_streams_begins_behind_what_is_committed_and_recolours(tmp_path: Path) -> None:
    place = tmp_path / checkpoints.FOLDER / checkpoints.name_of(2)
    place.mkdir(parents=True)
    checkpoints.write(str(place), {"step": 2}, Ledger(16, (Span(0, 1, 1),)))
    ray_internals.write_snapshot(str(place.parent), place.name, {"step": 2})
    asked: list[int] = []

    def recolour(stream: Dataset, rows: int) -> Dataset:
        asked.append(rows)
        return stream

    stream = SealedStream.of(rows_of, row_bytes=8)
    streams = copy.deepcopy(OrderedStreams(stream, str(tmp_path), 24, 4, recolour))
    (shard,) = streams.configure({}, 1)
    batches = list(shard["train"].iter_batches(batch_size=None))
    assert [len(batch["position"]) for batch in batches] == [4, 4]
    assert np.concatenate([batch["position"] for batch in batches]).tolist() == list(range(16, 24))
    assert asked == [4]


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    "ranks", [2, *(pytest.param(ranks, marks=pytest.mark.slow) for ranks in (1, 3))]
)
def test_each_rank_gets_its_batches_in_order_however_many_a_block_joins(
    tmp_path: Path, ranks: int
) -> None:
    rows = 4
    steps = 43  # more than one task makes, and no whole number of blocks
    stop = steps * ranks * rows
    streams = OrderedStreams(SealedStream.of(rows_of, 8), str(tmp_path), stop, ranks * rows, None)
    shards = streams.configure({}, ranks)

    def read(shard: Any) -> list[np.ndarray]:
        return [batch["position"] for batch in shard["train"].iter_batches(batch_size=rows)]

    with ThreadPoolExecutor(ranks) as threads:
        found = list(threads.map(read, shards))
    for rank, batches in enumerate(found):
        first = np.arange(steps)[:, None] * ranks * rows + rank * rows
        assert np.array_equal(np.stack(batches), first + np.arange(rows))
