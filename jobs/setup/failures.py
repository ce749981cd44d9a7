"""Finds, under what Ray wraps around it, the failure that starting again would not mend."""

from collections.abc import Iterator
from contextlib import contextmanager

from jobs.setup.command_line import RunError
from pipelines.storage.retries import StorageError

BEHIND = (
    "cause",
    "_base_exc",
    "controller_failure",
)  # where Ray, and Train's workers and controller, keep it


def lasting(error: BaseException) -> str | None:
    """Give the line of a failure that starting again would not mend; None for any other."""
    left, seen = [error], set[int]()
    while left:
        one = left.pop()
        if isinstance(one, RunError | StorageError):
            return str(getattr(one, "cause", None) or one)  # Ray makes its own class of the two
        seen.add(id(one))
        behind = [one.__cause__, *(getattr(one, name, None) for name in BEHIND)]
        behind += getattr(one, "worker_failures", {}).values()
        left += [
            other for other in behind if isinstance(other, BaseException) and id(other) not in seen
        ]
    return None


@contextmanager
def as_one_line() -> Iterator[None]:
    """Turn a lasting failure into a `RunError`."""
    try:
        yield
    except RunError:
        raise
    except Exception as error:
        if (line := lasting(error)) is None:
            raise
    else:
        return
    raise RunError(line)
