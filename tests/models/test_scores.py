"""Scores against values counted by hand, and intervals that hold what they say."""

import numpy as np
import pytest

from models.probing.mask_scores import judge_masks
from models.scores import average_precision, judge_classes, paired_difference


def test_classes_are_counted_as_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3]], np.float32)
    scores = judge_classes(probabilities, np.array([0, 0, 1, 1]))
    assert scores.top1 == 0.75
    assert scores.per_class.tolist() == [1.0, 0.5]
    assert scores.confusion.tolist() == [[2, 0], [1, 1]]
    assert scores.nll == pytest.approx(-np.log([0.9, 0.6, 0.8, 0.3]).mean())
    # each answer has a bin of its own
    assert scores.calibration_error == pytest.approx((0.1 + 0.4 + 0.2 + 0.7) / 4)
    assert scores.ci95[0] < 0.75 < scores.ci95[1] or scores.ci95[1] == 1


def test_a_class_without_images_has_no_share() -> None:
    probabilities = np.array([[0.9, 0.05, 0.05]], np.float32)
    assert np.isnan(judge_classes(probabilities, np.array([0])).per_class).tolist() == [
        False,
        True,
        True,
    ]


def test_masks_are_judged_by_intersection_over_union() -> None:
    confusions = np.array([[[8, 2], [0, 10]], [[10, 0], [0, 0]]])
    scores = judge_masks(confusions)
    assert scores.per_class == pytest.approx([18 / 20, 10 / 12])
    assert scores.miou == pytest.approx((18 / 20 + 10 / 12) / 2)
    assert scores.pixel_top1 == pytest.approx(28 / 30)
    assert scores.confusion.tolist() == [[18, 2], [0, 10]]
    assert scores.ci95[0] <= scores.miou <= scores.ci95[1]


def test_a_class_that_occurs_nowhere_is_not_averaged() -> None:
    scores = judge_masks(np.array([[[5, 0, 1], [0, 4, 0], [0, 0, 0]]]))
    assert np.isnan(scores.per_class[2]) and scores.miou == pytest.approx((5 / 6 + 1) / 2)


def test_paired_intervals_are_narrower_than_unpaired_ones() -> None:
    draw = np.random.default_rng(0)
    first = draw.random(400) < 0.6
    second = first.copy()
    second[np.flatnonzero(~first)[:12]] = True
    difference, (low, high) = paired_difference(first, second)
    assert difference == pytest.approx(12 / 400)
    assert 0 < low < difference < high < 0.06


def test_paired_intervals_hold_the_difference_as_often_as_they_say() -> None:
    draw = np.random.default_rng(1)
    held = 0
    for seed in range(100):
        first = draw.random(200) < 0.5
        second = np.where(draw.random(200) < 0.3, draw.random(200) < 0.7, first)
        low, high = paired_difference(first, second, seed=seed)[1]
        held += low <= 0.3 * 0.2 <= high
    assert held >= 88


def test_average_precision_is_counted_by_rank() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6], np.float32)
    positive = np.array([True, False, True, False])
    assert average_precision(scores, positive) == pytest.approx((1 + 2 / 3) / 2)
    assert np.isnan(average_precision(scores, np.zeros(4, bool)))


def test_a_constant_score_earns_the_least_precision() -> None:
    positive = np.array([True, False, True, False])
    assert average_precision(np.zeros(4, np.float32), positive) == pytest.approx(
        (1 / 3 + 1 / 2) / 2
    )
