"""pipelines.labels.validation_draw: a seeded draw that keeps groups whole and every class in
training."""

from pipelines.labels.validation_draw import draw_validation

NAMES = [f"{number}.jpg" for number in range(600)]
LABELS = [[f"class{number % 20}"] for number in range(600)]
NO_GROUPS = [None] * 600


def test_a_fraction_of_every_class_is_drawn_whatever_the_order_of_samples() -> None:
    drawn = draw_validation(NAMES, NO_GROUPS, LABELS, fraction=0.2, seed=0)
    of_class = [sum(drawn[number::20]) for number in range(20)]
    assert all(6 <= count <= 7 for count in of_class)
    back = draw_validation(NAMES[::-1], NO_GROUPS, LABELS[::-1], fraction=0.2, seed=0)
    assert back[::-1] == drawn
    assert draw_validation(NAMES, NO_GROUPS, LABELS, fraction=0.2, seed=1) != drawn


def test_a_group_is_never_on_both_sides() -> None:
    groups = [f"patient{number // 7}" for number in range(600)]
    drawn = draw_validation(NAMES, groups, LABELS, fraction=0.2, seed=0)
    sides = {
        group: {one for g, one in zip(groups, drawn, strict=True) if g == group} for group in groups
    }
    assert all(len(side) == 1 for side in sides.values())
    assert 80 <= sum(drawn) <= 160


def test_no_class_loses_its_last_training_sample() -> None:
    labels = [[f"class{number // 3}"] for number in range(600)]
    drawn = draw_validation(NAMES, NO_GROUPS, labels, fraction=0.5, seed=0)
    left = {labels[index][0] for index, one in enumerate(drawn) if not one}
    assert len(left) == 200
    one_each = [[name] for name in NAMES]
    assert not any(draw_validation(NAMES, NO_GROUPS, one_each, fraction=0.5, seed=0))


def test_a_small_fraction_draws_one_sample_and_none_draws_none() -> None:
    none = [list[str]() for _ in NAMES]
    assert sum(draw_validation(NAMES[:10], NO_GROUPS[:10], none[:10], fraction=0.01, seed=0)) == 1
    assert not any(draw_validation(NAMES, NO_GROUPS, LABELS, fraction=0, seed=0))
