"""Average precision of boxes, by the library of the COCO challenge."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.probing.resampling import Groups, interval_of, times_drawn

_RESAMPLES = 200


@dataclass(frozen=True)
class BoxScores:
    """Boxes told of images, judged.

    Attributes:
        map50: Mean over classes of the average precision at an overlap of a half.
        ci95: Its bootstrap interval over images.
        map: The mean over overlaps of 0.5 to 0.95 too (arXiv:1405.0312).
        per_class: Average precision at a half of each class, NaN of one that does not occur, (C,).
        resampled: map50 of resampled images, (R,).
    """

    map50: float
    ci95: tuple[float, float]
    map: float
    per_class: NDArray[np.float64]
    resampled: NDArray[np.float64]


def judge_boxes(
    told: Sequence[NDArray[np.float32]],
    known: Sequence[tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]]],
    num_classes: int,
    groups: Groups = None,
    *,
    seed: int = 0,
) -> BoxScores:
    """Judge boxes.

    Args:
        told: Of each image (n, 6): x, y, width, height in px, class, score.
        known: Of each image: its boxes (n, 4), their classes, and whether each is a crowd.
        num_classes: C.
        groups: The group of each image, (N,), of which whole ones are resampled; None: each is its
            own.
        seed: Of the resampling.

    Raises:
        ImportError: pycocotools is not installed.
        ValueError: no image.
    """
    if not known:
        raise ValueError("no image to judge boxes in")
    with contextlib.redirect_stdout(io.StringIO()):  # the library talks; stdout is for results
        evaluator = _evaluated(told, known, num_classes)
        evaluator.accumulate()
        precision = evaluator.eval["precision"]
        drawn = _resampled(evaluator, len(known), seed, groups)
    return BoxScores(
        map50=_mean(precision[:1]),
        ci95=interval_of(drawn),
        map=_mean(precision),
        per_class=_by_class(precision[:1]),
        resampled=drawn,
    )


def _evaluated(told: Any, known: Any, num_classes: int) -> Any:
    """Match the boxes of each image once."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO()
    boxes = [
        {
            "image_id": image,
            "category_id": int(label),
            "bbox": box.tolist(),
            "area": float(box[2] * box[3]),
            "iscrowd": int(crowd),
        }
        for image, (found, labels, crowds) in enumerate(known)
        for box, label, crowd in zip(found, labels, crowds, strict=True)
    ]
    truth.dataset = {
        "info": {},
        "images": [{"id": image} for image in range(len(known))],
        "categories": [{"id": label} for label in range(num_classes)],
        # the library takes an id of 0 for "unmatched"
        "annotations": [{"id": number + 1, **box} for number, box in enumerate(boxes)],
    }
    truth.createIndex()
    rows = [[image, *row[:4], row[5], row[4]] for image, one in enumerate(told) for row in one]
    answers = truth.loadRes(np.array(rows, dtype=np.float64)) if rows else _nothing(truth)
    evaluator = COCOeval(truth, answers, "bbox")
    evaluator.params.areaRng = evaluator.params.areaRng[:1]
    evaluator.params.areaRngLbl = evaluator.params.areaRngLbl[:1]
    evaluator.params.maxDets = [100]
    evaluator.evaluate()
    return evaluator


def _nothing(truth: Any) -> Any:
    """Return the answer that there is no box."""
    from pycocotools.coco import COCO

    answers = COCO()
    answers.dataset = {**truth.dataset, "annotations": []}
    answers.createIndex()
    return answers


def _resampled(evaluator: Any, num_images: int, seed: int, groups: Groups) -> NDArray[np.float64]:
    """Return map50 of resampled images, from the matches that were made."""
    matched = np.empty(len(evaluator.evalImgs), dtype=object)
    matched[:] = evaluator.evalImgs
    by_image = matched.reshape(-1, num_images)
    params = evaluator.params
    every = params.iouThrs
    # Only the first overlap of each match is read then, which is the half.
    params.iouThrs = every[:1]
    drawn = []
    for times in chain.from_iterable(times_drawn(num_images, _RESAMPLES, seed, groups)):
        chosen = np.repeat(np.arange(num_images), times.astype(np.int64))
        # groups differ in size, and the library counts images by these
        params.imgIds = evaluator._paramsEval.imgIds = list(range(len(chosen)))
        evaluator.evalImgs = [
            one and {**one, "dtMatches": one["dtMatches"][:1], "dtIgnore": one["dtIgnore"][:1]}
            for one in by_image[:, chosen].reshape(-1)
        ]
        evaluator.accumulate(params)
        drawn.append(_mean(evaluator.eval["precision"]))
    return np.array(drawn)


def _by_class(precision: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average precision (overlaps, recalls, C, areas, counts) by class, -1 where unknown."""
    values = np.where(precision > -1, precision, np.nan)[..., 0, 0]
    with np.errstate(invalid="ignore"):
        total = np.isfinite(values).sum((0, 1))
        means: NDArray[np.float64] = np.nansum(values, (0, 1)) / total
    return means


def _mean(precision: NDArray[np.float64]) -> float:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else float("nan")
