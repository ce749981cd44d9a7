"""The run that an artifact comes from: its log and its probes, where they can be reached."""

import sys
from dataclasses import dataclass

from jobs.reporting import figures
from jobs.reporting.figures import Drawing, Lines
from jobs.setup import registered
from jobs.setup.failures import InputError
from jobs.training.run_dir import open_run
from models.artifact import Artifact
from pipelines.storage import uris

FOLDER = "curves"


@dataclass(frozen=True)
class RunLog:
    """What the card takes of a run.

    Attributes:
        lines: The log up to the step of the weights; empty where there is none.
        probes: The folder of its probes' results, None where there is no run.
    """

    lines: Lines
    probes: str | None


def find(artifact: Artifact, place: str, run: str | None) -> RunLog:
    """Read the log of the run that an artifact comes from.

    Args:
        artifact: The artifact.
        place: Its URI; a run's own lies in the run's folder.
        run: The run, where it was given.

    Raises:
        InputError: the run that was given is none, or another one.
    """
    uri = run or registered.run_around(place)
    if run is None and not uris.exists(uris.join(uri, "config.yaml")):
        print("the card lacks curves: no run lies around the artifact (run=...)", file=sys.stderr)
        return RunLog([], None)
    try:
        found, config = open_run(uri)
        if config.fingerprint() != artifact.provenance.get("fingerprint"):
            raise InputError(f"run {uri} is not the one that the artifact comes from")
    except InputError as error:
        if run is not None:
            raise
        print(f"the card lacks curves: {error}", file=sys.stderr)
        return RunLog([], None)
    last = artifact.provenance.get("num_steps", float("inf"))
    lines = [line for line in found.read_metrics() if line["step"] <= last]
    return RunLog(lines, found.path("probes"))


def draw(lines: Lines, embed_dim: int) -> list[Drawing]:
    """Draw the curves of a log: loss, spread of the features, and what the looks saw."""
    if not lines:
        return []
    drawn: list[Drawing | None] = [figures.loss(lines)]
    if {"feature_std", "rankme"} <= lines[-1].keys():
        drawn.append(figures.feature_spread(lines, embed_dim))
    drawn += [figures.health(lines), figures.geometry(lines)]
    return [each for each in drawn if each is not None]
