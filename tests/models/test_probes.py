import numpy as np
import pytest

from models.probes import bootstrap_interval


def test_bootstrap_interval_is_that_of_images_drawn_with_replacement() -> None:
    correct = np.arange(200) % 4 > 0  # 75 %
    drawn = correct[np.random.default_rng(1).integers(0, 200, size=(10_000, 200))].mean(1)
    expected = np.quantile(drawn, [0.025, 0.975])
    # one image of 200, twice
    assert bootstrap_interval(correct) == pytest.approx(expected, abs=0.0051)
    assert bootstrap_interval(correct) == bootstrap_interval(correct)


def test_bootstrap_interval_narrows_with_images_and_with_a_lower_level() -> None:
    def width(num: int, level: float = 0.95) -> float:
        low, high = bootstrap_interval(np.arange(num) % 2 == 0, level=level)
        return high - low

    assert width(10_000) == pytest.approx(2 * 1.96 * 0.5 / 100, rel=0.05)
    assert width(10_000, level=0.5) == pytest.approx(2 * 0.6745 * 0.5 / 100, rel=0.05)


@pytest.mark.parametrize(("correct", "level"), [(np.zeros(0, bool), 0.95), (np.ones(4, bool), 1.0)])
def test_bootstrap_refuses_no_images_and_a_certain_level(correct: np.ndarray, level: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        bootstrap_interval(correct, level=level)
