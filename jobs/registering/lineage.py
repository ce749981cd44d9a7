"""Where a registered artifact comes from, and what was measured of it: by its own word, and by what
lies in the run around it."""

from dataclasses import asdict
from typing import Any

from jobs.cluster import launch
from jobs.publishing import probe_results
from jobs.reporting.adaptation_page import RESULT
from jobs.setup import run_artifact
from jobs.setup.failures import InputError
from pipelines.registry import reference
from pipelines.registry.reference import Reference
from pipelines.registry.registered_model import NUMBER, RegisteredModel
from pipelines.storage import uris

_FIGURES = ("fingerprint", "source", "num_steps", "samples_seen")


def lineage_of(place: str, model: RegisteredModel, parent: str | None) -> dict[str, Any]:
    """Return where the weights of an artifact come from.

    Args:
        place: Of the artifact.
        model: As which it is registered.
        parent: What it was trained on from, where that was given.

    Raises:
        InputError: there is no such parent.
    """
    description = run_artifact.describe(place)
    provenance = description["provenance"]
    last = provenance.get("manifest_version")
    versions = provenance.get("manifest_versions", [] if last is None else [last])
    lineage = {name: provenance.get(name) for name in _FIGURES}
    return lineage | {
        "manifest_versions": versions,
        "run": _run_of(place),
        "commit": provenance.get("commit"),
        "packages": provenance.get("packages", {}),
        "parent": _parent(description, model, parent),
    }


def _run_of(place: str) -> str | None:
    """Return the run around an artifact; None where there is none."""
    run = place.rstrip("/").rpartition("/")[0]
    return run if uris.exists(uris.join(run, "config.yaml")) else None


def _parent(
    description: dict[str, Any], model: RegisteredModel, given: str | None
) -> dict[str, Any] | None:
    """Describe what training started from: what was given, else the weights that the artifact
    names."""
    if given is not None and NUMBER.fullmatch(given):
        given = Reference(model, given).resolve().artifact
    elif given is not None:
        given = run_artifact.find(launch.user_uri("parent", given), "parent")
    place = given or description.get("start", {}).get("weights")
    if place is None:
        return None
    found: dict[str, Any] = {"artifact": place}
    if (registered := reference.of_place(place)) is not None:
        found["registered"] = str(registered)
    if uris.exists(uris.join(place, run_artifact.DESCRIPTION)):
        found["digest"] = run_artifact.describe(place)["digest"]
    return found


def metrics_of(place: str, probes: tuple[str, ...]) -> dict[str, Any]:
    """Return what was measured of an artifact: the last line of its log, and what probes say.

    Args:
        place: Of the artifact.
        probes: Results that were given; none: those in the run around it.

    Raises:
        InputError: one that was given is no result, or of another artifact.
    """
    description = run_artifact.describe(place)
    digest = description["digest"]
    if probes:
        places = tuple(launch.user_uri("probes", each) for each in probes)
        scores = probe_results.read_given(places, digest)
    else:
        scores = _beside(place, digest)
    return {
        "training": description["provenance"].get("metrics", {}),
        "probes": [asdict(score) for score in scores],
    }


def _beside(place: str, digest: str) -> list[probe_results.Score]:
    """Read the probes of the run around an artifact; what judges another one is passed over."""
    run = place.rstrip("/").rpartition("/")[0]
    folder = uris.join(run, "probes")
    files = [uris.join(folder, name) for name in uris.list_names(folder) if name.endswith(".json")]
    scores = []
    for file in (*files, uris.join(run, RESULT)):
        try:
            scores += probe_results.read_given((file,), digest)
        except InputError:
            continue
    return scores
