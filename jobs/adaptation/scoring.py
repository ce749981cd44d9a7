"""How answers on test samples are scored, for every adaptation: what `--json` calls it, its
interval, and its scores by class."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import numpy as np

from jobs.adaptation.telling import NAMES_KEPT
from jobs.setup.failures import InputError
from models.probing import resampling
from models.probing.box_scores import judge_boxes
from models.probing.mask_scores import judge_masks, miou_of
from models.scores import average_precision, judge_classes, paired_difference
from pipelines.labels.labelled_data import LabelledData


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores of one encoder.

    Attributes:
        measure: The key of the main one: top1, map, miou or map50.
        scores: For a program: the main one, `ci95`, `per_class` and more.
        resampled: Makes the main one of resampled test sets; the same sets of every encoder.
        correct: Whether each test sample was told rightly; None where that is no matter of yes or
            no.
        groups: By which test samples are drawn for intervals; None: each by itself.
        of_some: Scores some of the test samples (N,) bool, at least one; None where they ask
            nothing. It is None itself of what is never scored so.
    """

    measure: str
    scores: dict[str, Any]
    resampled: Callable[[], np.ndarray]
    correct: np.ndarray | None = None
    groups: np.ndarray | None = None
    of_some: "Callable[[np.ndarray], Scored | None] | None" = None

    @property
    def value(self) -> float:
        """Return the main score."""
        return float(self.scores[self.measure])

    @property
    def line(self) -> str:
        """Say the main score and its interval."""
        return share(self.value, self.scores["ci95"])

    def unleaked(self, leaked: np.ndarray | None, prefix: str = "") -> dict[str, Any]:
        """Return the score of the test samples that are not in the pretraining corpus, by names
        with a prefix: null where all are; nothing where nobody looked.

        Args:
            leaked: (N,) bool, which are there; None: nobody looked.
            prefix: Of the names.
        """
        if leaked is None:
            return {}
        assert self.of_some is not None
        rest = None if leaked.all() else self.of_some(~leaked)
        return {
            f"{prefix}unleaked_{self.measure}": rest.value if rest else None,
            f"{prefix}unleaked_ci95": rest.scores["ci95"] if rest else None,
        }

    def prefixed(self, prefix: str) -> dict[str, Any]:
        """Return what is said of a baseline, by names with a prefix."""
        kept = (self.measure, "ci95", "per_class")
        return {f"{prefix}{name}": self.scores[name] for name in kept}

    def ahead_of(self, other: "Scored") -> dict[str, Any]:
        """Return by how much the score is higher than another on the same samples."""
        if self.correct is not None and other.correct is not None:
            difference, interval = paired_difference(
                other.correct, self.correct, groups=self.groups
            )
        else:
            difference = self.value - other.value
            interval = resampling.interval_of(self.resampled() - other.resampled())
        return {"difference": difference, "difference_ci95": list(interval)}


def share(value: float, interval: tuple[float, float] | list[float]) -> str:
    """Say a share and its interval."""
    return f"{value:.1%} [{interval[0]:.1%}, {interval[1]:.1%}]"


def by_class(data: LabelledData, values: np.ndarray) -> dict[str, float]:
    """Name the classes of some scores, (C,)."""
    names = data.classes[:NAMES_KEPT]
    return dict(zip(names, values.tolist(), strict=False))


def score(data: LabelledData, answers: np.ndarray) -> Scored:
    """Score what was told of test samples.

    Args:
        data: The test samples alone.
        answers: In their order: probabilities (N, C); of masks, pixels of class i told as class j,
            (N, C * C); of boxes, (N, M * 6) as `predictor.FOUND_BOXES`.
    """
    of_task = {
        "boxes": _of_boxes,
        "mask": _of_masks,
        "classes": _of_several,
        "class": _of_one,
    }
    return replace(
        of_task[data.task](data, answers),
        of_some=lambda some: score(data.keep(some), answers[some]),
    )


def _of_one(data: LabelledData, answers: np.ndarray) -> Scored:
    groups = data.drawn_whole
    one = judge_classes(answers, data.labels, groups)
    correct = answers.argmax(1) == data.labels
    scores = {
        "top1": one.top1,
        "ci95": list(one.ci95),
        "per_class": by_class(data, one.per_class),
        "confusion": one.confusion[:NAMES_KEPT, :NAMES_KEPT].tolist(),
        "calibration_error": one.calibration_error,
        "nll": one.nll,
        "calibration": [
            {"confidence": confidence, "right": right, "images": int(images)}
            for confidence, right, images in one.calibration.tolist()
        ],
    }
    return Scored(
        "top1",
        scores,
        lambda: resampling.resampled_means(correct * 1.0, groups),
        correct,
        groups,
    )


def _of_several(data: LabelledData, answers: np.ndarray) -> Scored:
    precision = _precisions(data, answers)
    drawn = resampling.resampled_map(answers, data.label_hot, data.drawn_whole)
    scores = {
        "map": float(np.nanmean(precision)),
        "ci95": list(resampling.interval_of(drawn)),
        "per_class": by_class(data, precision),
    }
    return Scored("map", scores, lambda: drawn)


def _of_masks(data: LabelledData, answers: np.ndarray) -> Scored:
    masks = judge_masks(_confusions(data, answers), data.drawn_whole)
    scores = {
        "miou": masks.miou,
        "ci95": list(masks.ci95),
        "pixel_top1": masks.pixel_top1,
        "per_class": by_class(data, masks.per_class),
        "confusion": masks.confusion[:NAMES_KEPT, :NAMES_KEPT].tolist(),
    }
    return Scored("miou", scores, lambda: masks.resampled)


def _of_boxes(data: LabelledData, answers: np.ndarray) -> Scored:
    told = [rows[rows[:, 4] >= 0] for rows in answers.reshape(data.num_rows, -1, 6)]
    known = [data.boxes(row) for row in range(data.num_rows)]
    one = judge_boxes(told, known, data.num_classes, data.drawn_whole)
    scores = {
        "map50": one.map50,
        "ci95": list(one.ci95),
        "map": one.map,
        "per_class": by_class(data, one.per_class),
    }
    return Scored("map50", scores, lambda: one.resampled)


def check_library() -> None:
    """Refuse to detect without the library that judges boxes, before anything is trained.

    Raises:
        InputError: it is not installed.
    """
    if find_spec("pycocotools") is None:
        raise InputError(
            "probe.name=detect judges with the package pycocotools, which is not installed: pip"
            " install 'afield[detect]'"
        )


def main_score(data: LabelledData, answers: np.ndarray) -> float:
    """Return the main score alone, to choose by; answers are those of `score`."""
    if data.task == "class":
        return float((answers.argmax(1) == data.labels).mean())
    if data.task == "classes":
        return float(np.nanmean(_precisions(data, answers)))
    return miou_of(_confusions(data, answers))


def _precisions(data: LabelledData, answers: np.ndarray) -> np.ndarray:
    """Return the average precision of each class, (C,), NaN of one that does not occur."""
    columns = zip(answers.T, data.label_hot.T, strict=True)
    return np.array([average_precision(told, known) for told, known in columns])


def _confusions(data: LabelledData, answers: np.ndarray) -> np.ndarray:
    """Return pixels of class i told as class j in each image, (N, C, C) int64."""
    return answers.reshape(-1, data.num_classes, data.num_classes).astype(np.int64)
