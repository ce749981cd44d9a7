import numpy as np
import pytest

from models.probing.few_labels import draw_few, share_of, wanted_of

LABELS = np.repeat([0, 1, 2], [40, 30, 10])


def test_a_draw_has_its_share_of_every_class_and_depends_on_its_seed_alone() -> None:
    wanted = wanted_of("10%", np.bincount(LABELS))
    assert wanted.tolist() == [4, 3, 1]
    first = draw_few(LABELS, np.arange(80), wanted, seed=3)
    assert np.bincount(LABELS[first]).tolist() == wanted.tolist()
    assert first.tolist() == draw_few(LABELS, np.arange(80), wanted, seed=3).tolist()
    assert first.tolist() != draw_few(LABELS, np.arange(80), wanted, seed=4).tolist()


def test_a_larger_draw_holds_the_smaller_one() -> None:
    small = draw_few(LABELS, np.arange(80), np.full(3, 2), seed=1)
    large = draw_few(LABELS, np.arange(80), np.full(3, 9), seed=1)
    assert set(small) < set(large)


def test_a_draw_takes_a_second_sample_of_a_group_only_after_one_of_each() -> None:
    groups = np.arange(80) // 10  # four of the first class
    drawn = draw_few(LABELS, groups, np.array([4, 3, 1]), seed=0)
    assert len(set(groups[drawn])) == 8
    more = draw_few(LABELS, groups, np.array([6, 3, 1]), seed=0)
    assert np.bincount(groups[more])[:4].max() == 2


@pytest.mark.parametrize("setting", ["0%", "101%", "ten", "0", 0, "2.5"])
def test_a_setting_is_a_share_or_a_number(setting: str | int) -> None:
    with pytest.raises(ValueError, match="must be a share such as"):
        share_of(setting)


def test_more_than_the_smallest_class_has_is_refused() -> None:
    with pytest.raises(ValueError, match="more than the 10 of the smallest"):
        wanted_of(11, np.bincount(LABELS))
    assert wanted_of("1%", np.bincount(LABELS)).tolist() == [1, 1, 1]  # at least one
