"""What a driver sees of its training workers while they run, and how it asks them for something."""

from typing import Any, Generic, TypeVar

import ray
from ray.exceptions import RayActorError
from ray.train import UserCallback
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jobs.setup.failures import Failure, RunError, failure_of
from jobs.training.run_dir import RunDir
from pipelines.ray_internals import first_line

Answer = TypeVar("Answer")


class TooManyFailures(RunError):
    """The workers failed again and again for a fault of this program, or lost one another."""


class Monitor:
    """An actor that carries log lines from rank 0 to the driver, and the driver's wishes the other
    way.

    Ray starts it again where its process is lost. What it then has forgotten is told to it again,
    or was a line of the log on its way to the terminal.
    """

    def __init__(self) -> None:
        self._lines: list[dict[str, Any]] = []
        self._stop = False
        self._failure: Failure | None = None
        self._tracebacks: dict[int, str] = {}
        self._controller: Any = None

    def meet(self, controller: Any) -> None:
        """Take note of Ray Train's controller."""
        self._controller = controller

    def controller(self) -> Any:
        """Return Ray Train's controller, None before it has started."""
        return self._controller

    def log(self, line: dict[str, Any]) -> None:
        """Take a line."""
        self._lines.append(line)

    def take(self) -> list[dict[str, Any]]:
        """Hand over the lines since the last call."""
        lines = self._lines
        self._lines = []
        return lines

    def stop(self) -> None:
        """Ask the workers to checkpoint and end."""
        self._stop = True

    def stop_wanted(self) -> bool:
        """Tell whether the workers should stop."""
        return self._stop

    def keep(self, attempt: int, traceback: str) -> None:
        """Keep what a worker raised; of one attempt the first counts, the rest follows from it."""
        self._tracebacks.setdefault(attempt, traceback)

    def traceback(self) -> str | None:
        """Return what is kept of the last attempt that raised."""
        return self._tracebacks[max(self._tracebacks)] if self._tracebacks else None

    def fail(self, failure: Failure) -> None:
        """Note a failure that starting the workers again would not mend; the first one counts."""
        self._failure = self._failure or failure

    def failure(self) -> Failure | None:
        """Return what failed for good, None so far."""
        return self._failure


def start_monitor() -> Any:
    """Start a monitor beside the driver, so that the loss of any other node leaves it alone."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    kind = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Monitor)
    return kind.options(scheduling_strategy=here).remote()


def answer(reference: Any, otherwise: Answer) -> Answer:
    """Wait for what an actor answers; something else where it is lost."""
    try:
        found: Answer = ray.get(reference)
    except RayActorError:
        return otherwise
    return found


class Question(Generic[Answer]):
    """Asks an actor again and again without waiting for it.

    Args:
        method: What is asked for.
        otherwise: What counts until an answer is there, and where the actor is lost.
    """

    def __init__(self, method: Any, otherwise: Answer) -> None:
        self._method = method
        self._otherwise = otherwise
        self._asked: Any = None

    def ask(self, *, wait: bool = False) -> Answer:
        """Return the answer to the question before, if it is there, and ask once more after it."""
        if self._asked is None:
            self._asked = self._method.remote()
        ready, _ = ray.wait([self._asked], timeout=None if wait else 0)
        if not ready:
            return self._otherwise
        asked, self._asked = self._asked, None
        return answer(asked, self._otherwise)


class FailureRule(UserCallback):
    """Decides in Train's controller which failure of a worker ends the run; Train itself always
    goes on.

    One that a user or a machine must mend ends it at once, wherever it came up: in the loop, its
    data, or an upload in the background. Any other ends it once there were too many in a row
    without a new checkpoint between them. The loss of a node that was announced does not count.

    Args:
        monitor: The driver's, which stops the run.
        run: The run directory.
        max_failures: Failures in a row that are forgiven; -1: any number.
    """

    def __init__(self, monitor: Any, run: RunDir, max_failures: int) -> None:
        self._monitor = monitor
        self._run = run
        self._max = max_failures
        self._failures = 0
        self._step = run.committed_step()

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Look at what each worker raised, before Ray Train decides."""
        errors = list(worker_exceptions.values())
        found = [failure_of(error) for error in errors]
        failure = next(filter(None, found), None) or self._too_many(errors)
        if failure is not None:
            ray.get(self._monitor.fail.remote(failure))
        else:
            self._monitor.log.remote({"waiting": "starting the training workers again"})

    def _too_many(self, errors: list[Exception]) -> Failure | None:
        if any(isinstance(error, RayActorError) and error.preempted for error in errors):
            return None
        step = self._run.committed_step()
        if step > self._step:
            self._step = step
            self._failures = 0
        self._failures += 1
        if self._max < 0 or self._failures <= self._max:
            return None
        last = f"{type(errors[0]).__name__}: {first_line(str(errors[0]))}"
        return TooManyFailures(
            f"{self._failures} failures in a row without a new checkpoint, more than "
            f"cluster.max_failures={self._max}; the last was {last}"
        )
