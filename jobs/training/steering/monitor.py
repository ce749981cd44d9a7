"""What a driver sees of its training workers while they run, and how it asks them for something.

The actor's process imports this module, and so little else.
"""

from typing import TYPE_CHECKING, Any, Generic, TypeVar

import ray
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

if TYPE_CHECKING:
    from jobs.setup.failures import Failure

Answer = TypeVar("Answer")


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
        self._controller: bytes | None = None

    def meet(self, controller: bytes) -> None:
        """Take note of the handle of Ray Train's controller, pickled: opened here, it would bring
        Ray Train and Ray Data into this process."""
        self._controller = controller

    def controller(self) -> bytes | None:
        """Return the pickled handle of Ray Train's controller, None before it has started."""
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

    def fail(self, failure: "Failure") -> None:
        """Note a failure that starting the workers again would not mend; the first one counts."""
        self._failure = self._failure or failure

    def failure(self) -> "Failure | None":
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
