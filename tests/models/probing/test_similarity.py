"""Spearman's correlation of cosines and what people say."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from models.probing.similarity import cosines, resampled_spearman, spearman


def test_it_is_scipys_and_blind_to_all_but_the_order() -> None:
    generator = np.random.default_rng(0)
    alike = generator.normal(size=200)
    score = np.round(alike + generator.normal(size=200), 0)  # with many that are equal
    found = spearman(alike, score)
    assert found == pytest.approx(spearmanr(alike, score).statistic)
    assert spearman(np.exp(alike), score) == pytest.approx(found)
    assert spearman(-alike, score) == pytest.approx(-found)
    assert spearman(score, alike) == pytest.approx(found)


def test_what_is_all_alike_tells_nothing() -> None:
    assert spearman(np.ones(5), np.arange(5.0)) == 0


def test_the_interval_holds_the_value_and_narrows_with_more_pairs() -> None:
    generator = np.random.default_rng(1)
    widths = []
    for num in (60, 300):
        alike = generator.normal(size=num)
        score = alike + generator.normal(size=num)
        low, high = np.quantile(resampled_spearman(alike, score), [0.025, 0.975])
        assert low < spearman(alike, score) < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 1.5


def test_cosines_are_of_directions_and_0_of_none() -> None:
    first = np.array([[1.0, 0], [2, 2], [0, 0]])
    second = np.array([[0.0, 3], [1, 1], [1, 0]])
    assert cosines(first, second).tolist() == pytest.approx([0, 1, 0])
