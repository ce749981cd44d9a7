"""Logistic regression on few labels: a curve over their number, the same draws for every kind of
features."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jobs.adaptation import scoring
from jobs.adaptation.scoring import Scored
from jobs.probing.answering import targets_of
from jobs.probing.frozen_features import COMPARED, Labelled
from jobs.probing.probe_sections import OWN, ProbeConfig
from jobs.setup.failures import InputError
from models.probing.few_labels import draw_few, wanted_of
from models.probing.logistic import logistic_path, standard_of
from models.probing.resampling import Groups, over_draws, resampled_means
from models.scores import judge_classes
from pipelines.labels.labelled_data import LabelledData


@dataclass(frozen=True, eq=False)
class Draws:
    """The draws of one setting.

    Attributes:
        setting: As it was given: a share of each class, or a number a class.
        rows: Indices of samples, of each draw.
    """

    setting: str | int
    rows: tuple[np.ndarray, ...]

    @property
    def num_labels(self) -> int:
        """Return how many labels a draw has."""
        return round(float(np.mean([len(one) for one in self.rows])))


Scratch = Callable[[Labelled, Draws], np.ndarray]
"""Trains from random weights on every draw; tells which test samples it told rightly, (R, N)."""


def draws_of(probe: ProbeConfig, data: LabelledData) -> list[Draws]:
    """Draw training samples of every setting, smallest first.

    Raises:
        InputError: a class has fewer samples than a setting asks for, or none to draw from.
    """
    pool = np.flatnonzero(data.learns)
    labels = data.labels[pool]
    counts = np.bincount(labels, minlength=data.num_classes)
    made = []
    for setting in probe.labels:
        present = counts > 0  # a class that lost all its samples is not judged
        wanted = np.zeros_like(counts)
        try:
            wanted[present] = wanted_of(setting, counts[present])
        except ValueError as error:
            raise InputError(f"probe.labels {setting}: {error}: ask for fewer") from None
        whole = wanted.sum() == counts.sum()
        groups = data.groups[pool]
        seeds = range(probe.seed, probe.seed + (1 if whole else probe.draws))
        rows = tuple(pool[draw_few(labels, groups, wanted, seed=seed)] for seed in seeds)
        made.append(Draws(setting, rows))
    return sorted(made, key=lambda one: one.num_labels)


def judge_few(
    probe: ProbeConfig, labelled: Labelled, scratch: Scratch | None = None
) -> dict[str, Any]:
    """Judge every kind of features on few labels.

    Returns:
        The curve, and as for other probes the scores of its last point.

    Raises:
        InputError: the labels cannot be drawn.
    """
    if len(probe.decays) > 1:
        raise InputError(
            "probe.weight_decay: few_label takes one value, since few labels leave none to choose"
            f" by; got {list(probe.decays)}"
        )
    curve = []
    result: dict[str, Any] = {}
    lines = []
    groups = labelled.data.keep(labelled.data.of("test")).drawn_whole
    leaked = labelled.leaked_test
    for draws in draws_of(probe, labelled.data):
        right, result = _pretrained(probe, labelled, draws)
        point: dict[str, Any] = {"labels": draws.num_labels, "setting": str(draws.setting)}
        point |= {"draws": len(draws.rows)} | _scores("", right, groups, leaked)
        shown = [f"pretrained {scoring.share(point['top1'], point['ci95'])}"]
        beside = {kind: _right(probe, labelled, kind, draws) for kind in labelled.others}
        point |= {"scratch_top1": None}
        if scratch:
            beside["scratch"] = scratch(labelled, draws)
        for kind, other in beside.items():
            point |= _scores(f"{kind}_", other, groups, leaked)
            point |= _ahead(kind, right, other, groups)
            name = labelled.artifact.baseline if kind == "untrained" else kind
            shown.append(f"{name} {scoring.share(point[f'{kind}_top1'], point[f'{kind}_ci95'])}")
        curve.append(point)
        number = f"{draws.setting} ({draws.num_labels} labels)"
        lines.append(f"{number}: {', '.join(shown)}")
    kept = ("top1", "ci95", "difference")
    last = {name: value for name, value in curve[-1].items() if name.endswith(kept)}
    counts = f"few_label top-1 of {labelled.data.account['num_classes']} classes"
    return result | last | {"curve": curve, "result": f"{counts}, {'; '.join(lines)}"}


def _pretrained(
    probe: ProbeConfig, labelled: Labelled, draws: Draws
) -> tuple[np.ndarray, dict[str, Any]]:
    """Judge the artifact: which test samples each draw tells rightly, and all other scores."""
    data = labelled.data
    judged = data.keep(data.of("test"))
    told = _told(probe, labelled, "pretrained", draws)
    each = [judge_classes(one, judged.labels) for one in told]
    confusion = np.sum([one.confusion for one in each], axis=0)
    names = scoring.NAMES_KEPT
    scores = {
        "per_class": scoring.by_class(data, np.mean([one.per_class for one in each], axis=0)),
        "confusion": confusion[:names, :names].tolist(),
        "calibration_error": float(np.mean([one.calibration_error for one in each])),
        "nll": float(np.mean([one.nll for one in each])),
        "weight_decay": probe.decays[0],
        "trained": data.num_classes * (labelled.features["pretrained"][OWN].shape[1] + 1),
    }
    return np.stack([one.argmax(1) == judged.labels for one in told]), scores


def _right(probe: ProbeConfig, labelled: Labelled, kind: str, draws: Draws) -> np.ndarray:
    labels = labelled.data.labels[labelled.data.of("test")]
    told = _told(probe, labelled, kind, draws)
    return np.stack([one.argmax(1) == labels for one in told])


def _told(probe: ProbeConfig, labelled: Labelled, kind: str, draws: Draws) -> list[np.ndarray]:
    """Fit every draw and tell the test samples, (N, C) each."""
    data = labelled.data
    x = labelled.features[kind][OWN]
    targets = targets_of(data)
    test = x[data.of("test")]
    standard = standard_of(x[data.learns])  # labels are few, images are not
    paths = [
        logistic_path(
            x[rows],
            targets[rows],
            test,
            num_classes=data.num_classes,
            weight_decays=probe.decays,
            standard=standard,
        )
        for rows in draws.rows
    ]
    return [path[0].numpy() for path in paths]


def _scores(
    prefix: str, right: np.ndarray, groups: Groups, leaked: np.ndarray | None
) -> dict[str, Any]:
    scored = _scored(right, groups)
    named = {f"{prefix}{name}": value for name, value in scored.scores.items()}
    return named | scored.unleaked(leaked, prefix)


def _scored(right: np.ndarray, groups: Groups) -> Scored:
    """Score which test samples each draw told rightly, (R, N)."""
    mean, interval = over_draws(right * 1.0, groups)
    return Scored(
        "top1",
        {"top1": mean, "ci95": list(interval)},
        lambda: resampled_means(right.mean(0), groups),
        of_some=lambda some: _scored(right[:, some], None if groups is None else groups[some]),
    )


def _ahead(kind: str, right: np.ndarray, other: np.ndarray, groups: Groups) -> dict[str, Any]:
    """Say by how much the artifact is ahead of another kind, paired over draws and samples."""
    mean, interval = over_draws(right * 1.0 - other, groups)
    prefix = "" if kind == COMPARED else f"{kind}_"
    return {f"{prefix}difference": mean, f"{prefix}difference_ci95": list(interval)}
