"""The one rule for output folders: each holds one run, pack or export, and can be written before
anything starts."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from jobs.setup.failures import InputError
from pipelines.storage import lease, temporaries, uris


def check_writable(key: str, uri: str) -> None:
    """Refuse a place that cannot be written.

    Raises:
        InputError: it cannot, with the key of the command line that names it.
    """
    if problem := uris.unwritable(uri):
        raise InputError(f"{key} {problem}")


@contextmanager
def held(job: str, out: str, *folders: str, what: str = "out") -> Iterator[lease.Held]:
    """Hold an output folder while a job writes there, and clear it of what dead ones left.

    Args:
        job: Who writes, for whoever wants the folder meanwhile.
        out: The folder.
        folders: Those in it that nobody else writes to.
        what: What the command line calls it.

    Raises:
        lease.Busy: another job writes there; becomes exit code 2.
    """
    with lease.held(out, owner=job, what=what) as mine:
        if mine.born is not None:
            temporaries.sweep(out, mine.born, deep=False)
            for folder in folders:
                temporaries.sweep(uris.join(out, folder), mine.born, deep=True)
        yield mine


def claim(what: str, out: str, record_name: str, record: Mapping[str, Any]) -> None:
    """Take a folder for a pack or an export, or find that it is this one's already.

    Args:
        what: What the folder is to hold, in one word.
        out: The folder.
        record_name: Name of the file in it that says what it holds.
        record: What makes two of them the same.

    Raises:
        InputError: it holds another one, or something else.
    """
    place = uris.join(out, record_name)
    if not uris.exists(place):
        check_empty(what, out, beside=("manifest",))
        if uris.create(place, json.dumps(record).encode()):
            return
    if different := differing(json.loads(uris.read_bytes(place)), record):
        raise refusal(what, out, different)


def recorded(out: str, record_name: str, key: str = "artifact_digest") -> Any:
    """Read what the record of a folder says under a key; None where there is no such record."""
    try:
        return json.loads(uris.read_bytes(uris.join(out, record_name))).get(key)
    except (FileNotFoundError, NotADirectoryError):
        return None


def check_empty(what: str, out: str, *, beside: tuple[str, ...]) -> None:
    """Refuse a folder that holds something else.

    Raises:
        InputError: anything but hidden files and the names `beside` lies in it.
    """
    names = uris.list_names(out)
    others = [name for name in names if name not in beside and not name.startswith(".")]
    if others:
        raise InputError(
            f"out {out} is no {what} and not empty ({others[0]}, ...): choose another one"
        )


def differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Say in which keys two records differ, and how."""
    return [
        f"{key} ({old.get(key)!r} there, {new.get(key)!r} now)"
        for key in {**old, **new}
        if _spelled(key, old) != _spelled(key, new)
    ]


def one_spelling(source: str) -> str:
    """Return the URI of a source as it is recorded: with and without a slash at its end, a prefix
    is one source."""
    return source.rstrip("/") or "/"


def _spelled(key: str, record: Mapping[str, Any]) -> Any:
    value = record.get(key)
    return one_spelling(value) if key == "source" and isinstance(value, str) else value


def refusal(what: str, out: str, different: list[str]) -> InputError:
    """Make the error for a folder that holds another one."""
    return InputError(
        f"out {out} holds another {what}: it differs in {', '.join(different)}; choose another out"
    )
