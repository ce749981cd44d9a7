"""Artifacts of a registry, where a job is given one: `REGISTRY/NAME@ALIAS` or
`REGISTRY/NAME@VERSION`."""

import sys

from jobs.cluster import launch
from jobs.setup.failures import InputError
from pipelines.registry import model_versions, moves, reference
from pipelines.registry.model_versions import Version
from pipelines.registry.reference import Reference
from pipelines.storage import uris


def given(uri: str) -> Reference | None:
    """Read what a job was given as a reference to a registry that is there; None where it is
    none."""
    found = reference.split(uri)
    return found if found is not None and found.model.is_there() else None


def check_reachable(key: str, uri: str) -> None:
    """Refuse a place that is not there, and of a reference a registry that is not.

    Raises:
        InputError: missing or refused, with the remedy.
    """
    wanted = reference.split(uri)
    if wanted is not None and uris.reachable(wanted.model.uri) is None:
        return
    launch.check_reachable(key, uri)


def resolved(uri: str, key: str) -> str:
    """Return the place of the version that a reference means; what is none, as it is."""
    wanted = given(uri)
    return uri if wanted is None or uris.exists(uri) else find(wanted, uri, key, None)


def run_around(place: str) -> str:
    """Return where the run of an artifact lies, if it has one: around it, or where its registered
    version says."""
    wanted = reference.of_place(place)
    if wanted is not None and wanted.model.is_there():
        run: str | None = wanted.resolve().lineage.get("run")
        if run is not None:
            return run
    return place.rstrip("/").rpartition("/")[0]


def find(wanted: Reference, uri: str, key: str, began: str | None) -> str:
    """Return the place of the version that is meant, and say on stderr which that is.

    Args:
        wanted: The reference.
        uri: As it was given.
        key: By which it was given.
        began: Digest of the artifact that the job's results were begun with, where they were.

    Raises:
        InputError: there is no such version or alias.
    """
    try:
        version = wanted.resolve()
    except ValueError as error:
        raise InputError(f"{key} {uri}: {error}") from None
    earlier = _begun_with(wanted, version, began)
    if earlier is None:
        print(
            f"{key} {uri} is version {version.number}: taking {version.artifact}", file=sys.stderr
        )
        return version.artifact
    print(
        f"{key} {uri} is version {version.number} now, and out was begun with version"
        f" {earlier.number}: going on with that; for version {version.number} choose another out",
        file=sys.stderr,
    )
    return earlier.artifact


def _begun_with(wanted: Reference, version: Version, began: str | None) -> Version | None:
    """Return the version that results were begun with, where an alias means another one now."""
    if not wanted.is_alias or began in (None, version.digest):
        return None
    versions = model_versions.all_of(wanted.model)
    same = {each.number: each for each in versions if each.digest == began}
    for move in reversed(moves.history(wanted.model)):  # of equal ones that which the alias meant
        if move.alias == wanted.wanted and move.after in same:
            return same[move.after]
    return next(iter(same.values()), None)
