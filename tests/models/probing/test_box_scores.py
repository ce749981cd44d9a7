"""Average precision of boxes, on answers whose score is known."""

import numpy as np
import pytest

from models.probing.box_scores import judge_boxes

Known = tuple[np.ndarray, np.ndarray, np.ndarray]


def known(*boxes: tuple[float, ...], crowd: bool = False) -> Known:
    rows = np.array(boxes, np.float32).reshape(-1, 5)
    return rows[:, :4], rows[:, 4].astype(np.int64), np.full(len(rows), crowd)


def told(*boxes: tuple[float, ...]) -> np.ndarray:
    return np.array(boxes, np.float32).reshape(-1, 6)


def test_perfect_answers_score_one_and_none_score_zero(capsys: pytest.CaptureFixture[str]) -> None:
    truth = [known((10, 10, 20, 20, 0), (50, 50, 30, 20, 1)), known((5, 5, 40, 40, 1)), known()]
    right = [told((10, 10, 20, 20, 0, 0.9), (50, 50, 30, 20, 1, 0.4)), told((5, 5, 40, 40, 1, 0.8))]
    scores = judge_boxes([*right, told()], truth, 3)
    assert scores.map50 == scores.map == pytest.approx(1)
    assert scores.ci95 == pytest.approx((1, 1))
    assert scores.per_class[:2].tolist() == pytest.approx([1, 1])
    assert np.isnan(scores.per_class[2])
    assert judge_boxes([told()] * 3, truth, 3).map50 == 0
    assert capsys.readouterr().out == ""


def test_an_overlap_of_six_tenths_counts_at_a_half_alone() -> None:
    truth = [known((0, 0, 100, 10, 0)) for _ in range(4)]
    near = told((0, 0, 62, 10, 0, 0.9))
    scores = judge_boxes([near] * 4, truth, 1)
    assert scores.map50 == pytest.approx(1)
    assert scores.map == pytest.approx(0.3)  # of the overlaps 0.5, 0.55 and 0.6


def test_the_interval_holds_the_score_and_crowds_are_not_missed() -> None:
    truth = [known((0, 0, 10, 10, 0)) for _ in range(20)]
    answers = [told((0, 0, 10, 10, 0, 0.9)) if image < 12 else told() for image in range(20)]
    scores = judge_boxes(answers, truth, 1)
    assert 0.3 < scores.ci95[0] < scores.map50 < scores.ci95[1] < 0.9
    by_two = judge_boxes(answers, truth, 1, np.arange(20) // 12)  # all right in one, none in other
    assert by_two.ci95 == pytest.approx((0, 1))
    crowds = [known((0, 0, 10, 10, 0), crowd=True) for _ in range(8)]
    assert judge_boxes([*answers, *[told()] * 8], [*truth, *crowds], 1).map50 == scores.map50
