"""The one rule for errors: what a user or a machine can mend is one line with an exit code,
wherever it was raised.

A task, an actor, a training worker or Train's controller wraps what it raises; here it is found
again under that. Whatever else is raised is a fault of this program and keeps its traceback.
"""

import errno
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from ray.exceptions import (
    NodeDiedError,
    OutOfDiskError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    WorkerCrashedError,
)

from pipelines import ray_internals
from pipelines.ray_internals import first_line
from pipelines.ray_tasks import MAX_RETRIES
from pipelines.storage.lease import Busy, Lost
from pipelines.storage.retries import StorageError


class InputError(ValueError):
    """What a user can cause and mend; becomes one `error:` line and exit code 2."""


class RunError(RuntimeError):
    """A job cannot go on, and trying again at once would not help; becomes one `error:` line and
    exit code 1."""


Failure = InputError | RunError

_OURS = re.compile(r"(?:^|/)(?:augment|models|pipelines|jobs)/[\w/]+\.py$")
_REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space, or have the quota raised",
    errno.EROFS: "choose another place, or mount it writable",
    errno.EACCES: "check its owner and permissions",
}
_DEATHS = (RayActorError, WorkerCrashedError, OutOfMemoryError, NodeDiedError)
_LAST_LINE = re.compile(r"(?:\w+\.)*(\w+): (.+)")
_ERRNO = re.compile(r"\[Errno (\d+)\] (.+)")


def is_lost_process(error: BaseException) -> bool:
    """Tell whether a task or actor failed because its process or its node ended."""
    return any(isinstance(one, _DEATHS) for one in ray_internals.chain(error))


def failure_of(error: BaseException) -> Failure | None:
    """Find what a user or a machine can mend in an exception, under whatever Ray wraps around it.

    Returns:
        An `InputError` for wrong input, a `RunError` for what failed while running and would fail
        again at once; None for a fault of this program.
    """
    for one in ray_internals.chain(error):
        if (found := _mendable(one)) is not None:
            return found
    return None


def _mendable(error: BaseException) -> Failure | None:
    cause = getattr(error, "cause", None)
    inner = cause if isinstance(cause, BaseException) else error  # Ray wraps what a task raised
    message = first_line(str(inner))
    if isinstance(inner, InputError | Busy):
        return InputError(message)
    if isinstance(inner, RunError):
        return type(inner)(message)  # who runs several jobs asks what kind it is
    if isinstance(inner, StorageError | Lost):
        return RunError(message)
    if isinstance(inner, OutOfDiskError):
        return RunError(f"Ray's disk is full: {message}")
    if isinstance(inner, OSError) and inner.errno in _REMEDIES:
        return RunError(_refused(inner.errno, str(inner.strerror), inner.filename))
    if isinstance(inner, ValueError) and _is_ours(error):
        return InputError(message)
    if getattr(error, "actor_init_failed", False):
        return _of_constructor(str(error))
    return None


def crash_of(error: BaseException) -> RunError | None:
    """Find a process that died, and whose work was given up, in an exception; None where none did.

    Not among what `failure_of` finds: training starts its workers again where one has died.
    """
    for one in ray_internals.chain(error):
        if getattr(one, "actor_init_failed", False):
            said = str(one).strip().splitlines()[-1]
            return RunError(
                f"a process could not start its work: {said}; Ray's logs"
                " (/tmp/ray/session_latest/logs) say more. What is written stays: the same command"
                " goes on from there"
            )
        if isinstance(one, _DEATHS):
            return RunError(
                f"the same work killed its process {MAX_RETRIES + 1} times ({type(one).__name__}):"
                " most often for want of memory; Ray's logs (/tmp/ray/session_latest/logs) say"
                " more. What is written stays: the same command goes on from there"
            )
    return None


def _refused(code: int, what: str, filename: object) -> str:
    """Say what the machine refused."""
    named = isinstance(filename, str) and filename == first_line(filename)
    return f"{f'{filename}: ' if named else ''}{what}: {_REMEDIES[code]}"


def _is_ours(error: BaseException) -> bool:
    """Tell whether this project raised an error on purpose; a library's says nothing to a user."""
    text = ray_internals.remote_text(error)
    if text is None:
        text = "".join(traceback.format_tb(error.__traceback__))
    return _was_raised_here(text)


def _was_raised_here(text: str) -> bool:
    file = ray_internals.raised_in(text)
    return file is not None and bool(_OURS.search(file.rpartition("site-packages/")[2]))


def _of_constructor(text: str) -> Failure | None:
    """Read what an actor's constructor raised from all that Ray keeps of it, the text."""
    found = _LAST_LINE.match(text.strip().splitlines()[-1])
    if found is None:
        return None
    kind, message = found.groups()
    if kind == "InputError" or (kind == "ValueError" and _was_raised_here(text)):
        return InputError(message)
    refused = _ERRNO.match(message)
    if refused and int(refused[1]) in _REMEDIES:
        return RunError(_refused(int(refused[1]), refused[2], None))
    return RunError(message) if kind in ("RunError", "StorageError") else None


@contextmanager
def as_one_line(source_key: str = "source.uri", *, crashes: bool = False) -> Iterator[None]:
    """Turn what a user or a machine can mend into an `InputError` or a `RunError`.

    Args:
        source_key: What the command line calls the source, for messages of the listing.
        crashes: Whether a process that died is one of those; in a training worker it is not, as
            the worker is started again.
    """
    try:
        yield
    except Exception as error:
        found = failure_of(error) or (crash_of(error) if crashes else None)
        plain = isinstance(error, InputError | RunError) and not isinstance(error, RayError)
        if found is None or (plain and source_key == "source.uri"):
            raise
        line = str(found).replace("source.uri", source_key)
    else:
        return
    raise type(found)(line)  # outside the handler: the chain of Ray's wrappers says nothing more
