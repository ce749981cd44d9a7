"""What probes have measured of an artifact: the JSON objects that `jobs.adapt --json` prints."""

import json
import sys
from dataclasses import dataclass
from typing import Any

from jobs.reporting.adaptation_page import RESULT
from jobs.setup.failures import InputError
from models.scores import measure_of
from pipelines.storage import uris

_MEASURES = {
    "top1": ("accuracy", "top-1"),
    "miou": ("mean_iou", "mean IoU"),
    "map50": ("map_50", "AP at IoU 0.5"),
    "map": ("mean_average_precision", "mean average precision"),
    "j_and_f": ("j_and_f", "J&F"),
    "j": ("j", "region overlap J"),
    "f": ("f", "boundary agreement F"),
    "pck": ("pck", "share of key points found"),
    "mean_recall": ("mean_recall", "mean recall of captions and images"),
}
_BASELINES = {"untrained": "untrained_", "from scratch": "scratch_", "colour": "colour_"}


@dataclass(frozen=True)
class Score:
    """One figure of a probe.

    Attributes:
        probe: Its name.
        metric: What hubs call the measure.
        words: What people call it.
        value: Of the artifact.
        interval: 95 %, None where the probe gives none.
        baselines: The same measure of what it is compared with, by name.
        counts: Numbers of images and classes, or of videos.
    """

    probe: str
    metric: str
    words: str
    value: float
    interval: tuple[float, float] | None
    baselines: dict[str, float]
    counts: dict[str, int]


def read_given(places: tuple[str, ...], digest: str) -> list[Score]:
    """Read the files, or the folders of files, that the command line names.

    Raises:
        InputError: one holds no result of a probe, or one of another artifact.
    """
    scores = []
    for place in places:
        files = [place] if place.endswith(".json") else _files(place)
        if not files:
            raise InputError(
                f"probes {place} holds no .json file: give what jobs.adapt --json says"
            )
        for file in files:
            found = _read(file)
            if found.get("artifact_digest") != digest:
                raise InputError(
                    f"probes {file} judges another artifact: its artifact_digest is"
                    f" {str(found.get('artifact_digest'))[:12]}, this one's {digest[:12]}"
                )
            scores += _scores(found)
    return scores


def read_beside(folder: str, digest: str) -> list[Score]:
    """Read the probes of a run, and what the adaptation that it is has scored; those of another
    artifact are named and left out."""
    scores = []
    own = uris.join(folder.rpartition("/")[0], RESULT)
    for file in [*_files(folder), *([own] if uris.exists(own) else [])]:
        try:
            found = _read(file)
        except InputError as error:
            print(f"the card lacks a probe: {error}", file=sys.stderr)
            continue
        if found.get("artifact_digest") == digest:
            scores += _scores(found)
        else:
            print(f"the card lacks a probe: {file} judges another artifact", file=sys.stderr)
    return scores


def _files(folder: str) -> list[str]:
    names = uris.list_names(folder)
    return [uris.join(folder, name) for name in names if name.endswith(".json")]


def _read(file: str) -> dict[str, Any]:
    """Read one result.

    Raises:
        InputError: it is none.
    """
    try:
        found = json.loads(uris.read_bytes(file))
    except FileNotFoundError:
        raise InputError(f"probes {file} does not exist: check the path") from None
    except ValueError:
        raise InputError(f"probes {file} is no JSON: give what jobs.adapt --json says") from None
    known = isinstance(found, dict) and "probe" in found and _MEASURES.keys() & found.keys()
    if not known:
        raise InputError(f"probes {file} is no result of a probe: give what jobs.adapt --json says")
    return dict(found)


def _scores(found: dict[str, Any]) -> list[Score]:
    counts = ("num_classes", "num_train", "num_test", "num_sequences")
    scores = []
    main = measure_of(found)
    for key, (metric, words) in _MEASURES.items():
        if not isinstance(found.get(key), float | int):
            continue
        interval = found.get(f"{key}_ci95", found.get("ci95") if key == main else None)
        baselines = {
            name: float(found[f"{prefix}{key}"])
            for name, prefix in _BASELINES.items()
            if isinstance(found.get(f"{prefix}{key}"), float | int)
        }
        scores.append(
            Score(
                probe=str(found["probe"]),
                metric=metric,
                words=words,
                value=float(found[key]),
                interval=(float(interval[0]), float(interval[1])) if interval else None,
                baselines=baselines,
                counts={name: int(found[name]) for name in counts if name in found},
            )
        )
    return scores
