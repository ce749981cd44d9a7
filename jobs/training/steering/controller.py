"""What of a run lives in Ray Train's controller.

Its process, and the one that builds the streams, import no networks.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any, Self

import ray
from ray.data import DataIterator, Dataset
from ray.exceptions import RayActorError
from ray.train import DataConfig, UserCallback

from jobs.setup.failures import Failure, RunError, failure_of
from jobs.training import checkpoints
from pipelines.ray_internals import chain, first_line
from pipelines.storage import uris
from pipelines.stream.sealed import Deal, SealedStream

Recolour = Callable[[Dataset, int], Dataset]

_FULL = re.compile(r"(?:out of|low on|can't allocate) memory")
_USED = re.compile(r"was (\S+) used / (\S+) limit")


class TooManyFailures(RunError):
    """The workers failed again and again for a fault of this program, or lost one another."""


class FailureRule(UserCallback):
    """Decides in Train's controller which failure of a worker ends the run; Train itself always
    goes on.

    One that a user or a machine must mend ends it at once, wherever it came up: in the loop, its
    data, or an upload in the background. Any other ends it once there were too many in a row
    without a new checkpoint between them. The loss of a node that was announced does not count.

    Args:
        monitor: The driver's, which stops the run.
        run: URI of the run directory.
        max_failures: Failures in a row that are forgiven; -1: any number.
    """

    def __init__(self, monitor: Any, run: str, max_failures: int) -> None:
        self._monitor = monitor
        self._run = run
        self._max = max_failures
        self._failures = 0
        self._step = checkpoints.committed_step(run)

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Look at what each worker raised, before Ray Train decides."""
        errors = list(worker_exceptions.values())
        found = [failure_of(error) for error in errors]
        # Train wraps what ended a worker's process, an announced loss of its node among them
        behind = [one for error in errors for one in chain(error)]
        why = _why(behind)
        failure = next(filter(None, found), None) or self._too_many(behind, why)
        if failure is not None:
            ray.get(self._monitor.fail.remote(failure))
        else:
            self._monitor.log.remote({"warning": f"a training worker failed: {why}"})
            self._monitor.log.remote({"waiting": "starting the training workers again"})

    def _too_many(self, behind: Iterable[BaseException], why: str) -> Failure | None:
        if any(isinstance(one, RayActorError) and one.preempted for one in behind):
            return None
        step = checkpoints.committed_step(self._run)
        if step > self._step:
            self._step = step
            self._failures = 0
        self._failures += 1
        if self._max < 0 or self._failures <= self._max:
            return None
        return TooManyFailures(
            f"{self._failures} failures in a row without a new checkpoint, more than "
            f"cluster.max_failures={self._max}; the last: {why}"
        )


def _why(behind: list[BaseException]) -> str:
    """Say in one line why workers failed, and what helps where that is known."""
    for one in behind:
        if _FULL.search(text := str(one)):
            used = _USED.search(text)
            told = f"{used[1]} of {used[2]} of its node's in use" if used else first_line(text)
            return (
                f"not enough memory ({told}): a smaller global_batch_size, more workers on other"
                " nodes or train.checkpoint_activations=true need less"
            )
    # what else raised then follows from the loss of one
    one = next((one for one in behind if isinstance(one, RayActorError)), behind[0])
    return f"{type(one).__name__}: {first_line(str(one))}"


class OrderedStreams(DataConfig):
    """Builds the stream of each worker group: what the committed weights have not seen, for its
    number of workers.

    Ray Train calls it once a worker group is up, when the committed checkpoint can no longer
    change.

    Args:
        stream: The blocks; put into the object store, as it may hold every label.
        run: URI of the run directory.
        stop: Position behind the last sample.
        rows: Samples that one forward pass takes over all workers.
        recolour: Changes the colours of a stream of blocks of so many rows; sealed. None: nothing
            does on the way.
    """

    def __init__(
        self, stream: SealedStream, run: str, stop: int, rows: int, recolour: Recolour | None
    ) -> None:
        super().__init__()
        self._stream = ray.put(stream)
        self._run = run
        self._stop = stop
        self._rows = rows
        self._recolour = recolour

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return itself: Ray Train copies its configuration, and a reference is no value."""
        return self

    def configure(
        self, datasets: dict[str, Dataset], world_size: int, *_: Any, **__: Any
    ) -> list[dict[str, DataIterator]]:
        """Split one ordered stream: block i goes to rank i mod `world_size`, and holds some of the
        rank's batches."""
        seen = checkpoints.ledger(uris.join(self._run, checkpoints.FOLDER))
        rows = self._rows // world_size
        sealed: SealedStream = ray.get(self._stream)
        ranges = [(seen.position, self._stop)]
        if self._recolour is None:
            stream = sealed.dataset(ranges, Deal.of(rows, world_size, sealed.row_bytes))
        else:  # which takes blocks of one size only
            stream = self._recolour(sealed.dataset(ranges, Deal(rows)), rows)
        return [{"train": shard} for shard in stream.streaming_split(world_size, equal=True)]
