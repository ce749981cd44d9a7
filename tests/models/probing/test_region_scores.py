"""J, F and PCK against masks that were worked out by hand, and against slow definitions."""

import math

import numpy as np
import pytest

from models.probing.region_scores import (
    boundary,
    boundary_agreement,
    points_found,
    region_overlap,
)


def square(top: int, left: int, side: int, size: tuple[int, int] = (20, 30)) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_overlap_of_shifted_squares_is_as_counted() -> None:
    # of 16 px each, 8 are shared: 8 of 24
    assert region_overlap(square(4, 4, 4), square(4, 6, 4)) == pytest.approx(8 / 24)
    assert region_overlap(square(4, 4, 4), square(4, 4, 4)) == 1
    assert region_overlap(square(4, 4, 4), square(12, 4, 4)) == 0


def test_empty_masks_agree_with_each_other_and_with_nothing_else() -> None:
    none, some = square(0, 0, 0), square(4, 4, 4)
    assert region_overlap(none, none) == boundary_agreement(none, none) == 1
    assert region_overlap(none, some) == boundary_agreement(none, some) == 0
    assert region_overlap(some, none) == boundary_agreement(some, none) == 0


def test_a_mask_of_the_whole_picture_has_no_boundary() -> None:
    whole = np.ones((20, 30), bool)
    assert not boundary(whole).any()
    assert boundary_agreement(whole, whole) == 1
    assert boundary_agreement(whole, square(4, 4, 4)) == 0


def test_boundary_lies_on_both_sides_above_and_left_and_inside_below_and_right() -> None:
    expected = np.zeros((6, 6), bool)
    expected[1, 1:4] = expected[1:4, 1] = True  # outside: what follows differs
    expected[3, 2:4] = expected[2:4, 3] = True  # inside: what follows differs
    assert np.array_equal(boundary(square(2, 2, 2, (6, 6))), expected)


def test_agreement_of_lines_is_as_worked_out() -> None:
    # Halves of a picture 10 px wide: lines at columns 4 and 6, 10 px long, whole px apart.
    told, truth = np.zeros((10, 10), bool), np.zeros((10, 10), bool)
    told[:, 5:] = truth[:, 7:] = True
    assert boundary_agreement(told, truth, tolerance=1.0 / math.hypot(10, 10)) == 0
    assert boundary_agreement(told, truth, tolerance=1.9 / math.hypot(10, 10)) == 1
    # A line half as long: all of it is right, and 7 of the 10 px of the true one are within 2 px
    # of its 5 px or its end.
    told[5:] = False
    radius = 2 / math.hypot(10, 10)
    line, right = boundary(told), boundary(truth)
    precision = slow_share(line, right, 2)
    recall = slow_share(right, line, 2)
    assert boundary_agreement(told, truth, tolerance=radius) == pytest.approx(
        2 * precision * recall / (precision + recall)
    )
    assert 0 < recall < 1


def slow_share(line: np.ndarray, other: np.ndarray, radius: int) -> float:
    near = [
        any(math.dist(place, target) <= radius for target in np.argwhere(other))
        for place in np.argwhere(line)
    ]
    return sum(near) / len(near)


def slow_agreement(told: np.ndarray, truth: np.ndarray, tolerance: float) -> float:
    """F pixel by pixel, by its definition."""
    lines = []
    for mask in (told, truth):
        height, width = mask.shape
        line = np.zeros_like(mask)
        for y in range(height):
            for x in range(width):
                for dy, dx in ((0, 1), (1, 0), (1, 1)):
                    other = mask[min(y + dy, height - 1), min(x + dx, width - 1)]
                    line[y, x] |= other != mask[y, x]
        lines.append(line)
    radius = math.ceil(tolerance * math.sqrt(truth.shape[0] ** 2 + truth.shape[1] ** 2))
    precision, recall = slow_share(lines[0], lines[1], radius), slow_share(*lines[::-1], radius)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("seed", range(4))
def test_agreement_equals_its_slow_definition(seed: int) -> None:
    draw = np.random.default_rng(seed)
    told, truth = (
        square(*draw.integers(2, 8, 2), int(draw.integers(4, 10))) ^ (draw.random((20, 30)) < 0.02)
        for _ in range(2)
    )
    for tolerance in (0.008, 0.03, 0.08):
        expected = slow_agreement(told, truth, tolerance)
        assert boundary_agreement(told, truth, tolerance=tolerance) == pytest.approx(expected)


def test_void_pixels_are_not_judged() -> None:
    void = square(4, 8, 4)
    told, truth = square(4, 4, 4) | void, square(4, 4, 4)
    assert region_overlap(told, truth) == 0.5
    assert region_overlap(told, truth, void) == 1
    assert boundary_agreement(told, truth, void, tolerance=0.008) == 1


def test_masks_of_two_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="one size"):
        region_overlap(square(0, 0, 2), square(0, 0, 2, (10, 10)))


def test_points_count_by_the_longer_side_of_their_box() -> None:
    truth = np.array([[10.0, 10.0], [50.0, 30.0], [10.0, 20.0]])  # 40 px wide
    told = truth + np.array([[0, 4], [0, 4.01], [5, 5]])
    found = points_found(told, truth, (0.1, 0.2))
    assert found.tolist() == [[True, False, False], [True, True, True]]
