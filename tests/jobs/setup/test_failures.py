"""Whatever a user or a machine can mend comes back as one line, from wherever Ray raised it."""

import errno
import pickle
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import ray
import ray.data
from ray.train import ControllerError, WorkerGroupError

from jobs.setup.command_line import main
from jobs.setup.failures import InputError, RunError, as_one_line, failure_of
from jobs.setup.sections import JobConfig
from jobs.training.run_log import PretrainingError
from pipelines.storage import uris
from pipelines.storage.retries import StorageError

Raise = Callable[[], object]


def wrong_input() -> None:
    raise InputError("a.b is 3: take 4")


def refused() -> None:
    raise StorageError("s3://b/x", "refused")


def full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "/data/x")


def ours() -> None:
    uris.absolute("s3://key:secret@bucket/x")  # raises a ValueError of pipelines


def of_a_library() -> None:
    np.zeros(6).reshape(5)


def in_a_task(fault: Raise) -> None:
    @ray.remote(max_retries=0)
    def task() -> None:
        fault()

    ray.get(task.remote())


class Actor:
    def call(self, fault: Raise) -> None:
        fault()


@cache
def actor() -> Any:
    return ray.remote(num_cpus=0)(Actor).remote()


def in_an_actor(fault: Raise) -> None:
    ray.get(actor().call.remote(fault))


def in_a_stream(fault: Raise) -> None:
    def block(batch: dict[str, Any]) -> dict[str, Any]:
        fault()
        return batch

    list(ray.data.range(1).map_batches(block).iter_batches())


def in_a_constructor(fault: Raise) -> None:
    class Pooled:
        def __init__(self) -> None:
            fault()

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            return batch

    pool = ray.data.ActorPoolStrategy(size=1)
    list(ray.data.range(1).map_batches(Pooled, compute=pool, num_cpus=0.1).iter_batches())


ALL = (wrong_input, refused, ours, full, of_a_library)
PLACES = {
    in_a_task: ALL,
    in_an_actor: ALL,
    in_a_stream: (refused, of_a_library),
    in_a_constructor: (full,),  # of a pool: seconds each
}
EXPECTED = {
    wrong_input: (InputError, "a.b is 3: take 4"),
    refused: (RunError, "s3://b/x: refused"),
    ours: (InputError, "carries credentials"),
    full: (RunError, "No space left on device"),
}


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_what_is_raised_behind_ray_is_one_line_and_a_librarys_error_is_not(
    place: Callable[[Raise], None],
) -> None:
    for fault in PLACES[place]:
        if fault is of_a_library:
            with pytest.raises(Exception, match="cannot reshape") as kept, as_one_line():
                place(fault)
            assert not isinstance(kept.value, InputError | RunError)
            continue
        kind, line = EXPECTED[fault]
        with pytest.raises(kind) as raised, as_one_line():
            place(fault)
        assert type(raised.value) is kind
        assert line in str(raised.value)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("fault", EXPECTED)
def test_what_trains_workers_and_controller_raise_is_found(fault: Raise) -> None:
    kind, line = EXPECTED[fault]
    try:
        fault()
    except Exception as error:
        found = [
            failure_of(WorkerGroupError("text", {0: KeyError("another's"), 1: error})),
            failure_of(ControllerError(error)),
        ]
    for failure in found:
        assert type(failure) is kind
        assert line in str(failure)


def test_what_can_be_mended_is_found_at_the_end_of_a_chain() -> None:
    wrapped = RuntimeError("a worker failed")
    wrapped.__cause__ = ValueError("in between")
    wrapped.__cause__.__cause__ = StorageError("s3://b/x", "refused")
    assert str(failure_of(wrapped)) == "s3://b/x: refused"
    carried = pickle.loads(pickle.dumps(ControllerError(wrapped.__cause__.__cause__)))
    assert str(failure_of(carried)) == "s3://b/x: refused"
    assert failure_of(ValueError("of nobody")) is None


def test_the_source_is_called_what_the_command_line_calls_it() -> None:
    with pytest.raises(InputError, match=r"^train\.uri x is missing"), as_one_line("train.uri"):
        raise InputError("source.uri x is missing")
    with pytest.raises(PretrainingError, match="stop"), as_one_line():
        raise PretrainingError("stop")  # and whatever needs no finding stays what it is


class Nothing(JobConfig):
    """A job without settings."""


@pytest.mark.parametrize(
    ("fault", "code", "line"),
    [
        (wrong_input, 2, "error: a.b is 3: take 4"),
        (ours, 2, "carries credentials"),
        (refused, 2, "error: s3://b/x: refused"),  # outside a session, before anything starts
        (full, 1, "error: /data/x: No space left on device: free some space"),
    ],
)
def test_a_job_prints_one_line_and_exits_with_its_code(
    fault: Raise, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def job(config: Nothing) -> dict[str, Any]:
        fault()
        return {}

    assert main("job", "", lambda values: (Nothing, values), job, []) == code
    assert line in capsys.readouterr().err
    with pytest.raises(ValueError, match="cannot reshape"):
        main("job", "", lambda values: (Nothing, values), lambda _: np.zeros(6).reshape(5), [])
