import numpy as np
import pytest

from models.probes import bootstrap_interval
from models.probing.mask_scores import judge_masks, resampled_miou
from models.probing.resampling import (
    interval_of,
    over_draws,
    resampled_map,
    resampled_means,
)
from models.scores import average_precision, paired_difference


def test_resampled_means_give_the_intervals_of_accuracy_and_of_its_paired_difference() -> None:
    generator = np.random.default_rng(0)
    first = generator.random(400) < 0.6
    second = first ^ (generator.random(400) < 0.1)
    drawn = resampled_means(first.astype(float))
    assert interval_of(drawn) == pytest.approx(bootstrap_interval(first), abs=0.006)
    whole = np.repeat(np.arange(100), 4)  # groups whose answers are all the same are as one each
    of_groups = resampled_means(np.repeat(first[::4], 4) * 1.0, whole)
    assert interval_of(of_groups) == pytest.approx(bootstrap_interval(first[::4]), abs=0.011)
    paired = drawn - resampled_means(second.astype(float))
    difference, interval = paired_difference(second, first)
    assert paired.mean() == pytest.approx(difference, abs=0.002)
    assert interval_of(paired) == pytest.approx(interval, abs=0.006)


def test_resampled_mean_average_precision_is_that_of_images_drawn_with_replacement() -> None:
    generator = np.random.default_rng(0)
    hot = generator.random((300, 3)) < 0.3
    scores = hot + generator.normal(size=hot.shape)
    loops = []
    for _ in range(300):
        rows = generator.integers(0, 300, 300)
        by_class = [average_precision(scores[rows, i], hot[rows, i]) for i in range(3)]
        loops.append(np.mean(by_class))
    drawn = resampled_map(scores, hot)
    assert drawn.mean() == pytest.approx(np.mean(loops), abs=0.005)
    assert drawn.std() == pytest.approx(np.std(loops), rel=0.2)


def test_resampled_iou_gives_the_interval_of_masks() -> None:
    confusions = np.random.default_rng(0).integers(0, 50, (30, 3, 3))
    assert interval_of(resampled_miou(confusions)) == pytest.approx(judge_masks(confusions).ci95)
    of_groups = judge_masks(np.repeat(confusions, 3, axis=0), np.repeat(np.arange(30), 3))
    assert of_groups.ci95 == pytest.approx(judge_masks(confusions).ci95)


def test_the_interval_over_draws_counts_draws_and_test_samples() -> None:
    sure = np.ones((5, 100))
    assert over_draws(sure) == (1.0, (1.0, 1.0))
    of_test = np.tile(np.arange(100) % 2, (5, 1)).astype(float)
    _, (low, high) = over_draws(of_test)
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / 10)
    _, whole = over_draws(np.repeat(of_test, 3, axis=1), np.repeat(np.arange(100), 3))
    assert whole == pytest.approx((low, high))
    of_draws = np.repeat(np.array([0.4, 0.5, 0.6])[:, None], 50, axis=1)
    mean, (low, high) = over_draws(of_draws)
    assert mean == pytest.approx(0.5)
    assert (high - low) / 2 == pytest.approx(4.303 * 0.1 / 3**0.5, rel=1e-3)  # Student's t, 2
    assert over_draws(of_test[:1])[1] == pytest.approx(over_draws(of_test)[1])
