"""augment.recipe: recipes refuse what makes no sense, and number their views."""

import pytest
from pydantic import ValidationError

from augment.ops import ColorJitter, GaussianBlur, Greyscale
from augment.recipe import CropGroup, Views

MULTI_CROP = Views(
    size=224,
    groups={
        "global_crops": CropGroup(count=2),
        "local_crops": CropGroup(count=6, size=96, scale=(0.05, 0.4)),
    },
)


def test_views_are_numbered_group_after_group() -> None:
    assert MULTI_CROP.num_views == 8
    assert [MULTI_CROP.first_view(name) for name in MULTI_CROP.groups] == [0, 2]


def test_a_group_without_a_size_takes_the_size_of_the_views() -> None:
    assert [MULTI_CROP.group_size(name) for name in MULTI_CROP.groups] == [224, 96]


def test_json_round_trip_keeps_the_recipe_and_the_order_of_its_groups() -> None:
    again = Views.model_validate_json(MULTI_CROP.model_dump_json())
    assert again == MULTI_CROP
    assert list(again.groups) == list(MULTI_CROP.groups)


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": (1.0, 0.08)},
        {"scale": (0.0, 1.0)},
        {"scale": (0.5, 1.5)},
        {"ratio": (2.0, 1.0)},
        {"flip": 1.5},
        {"count": 0},
        {"jitter": None},
        {"blur": {"sigma": (0.0, 2.0)}},
        {"color_jitter": {"hue": 0.6}},
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_its_name(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        CropGroup.model_validate(wrong)


def test_a_recipe_without_views_is_refused() -> None:
    with pytest.raises(ValidationError, match="groups"):
        Views(size=32, groups={})


def test_every_field_is_described() -> None:
    for model in (Views, CropGroup, ColorJitter, Greyscale, GaussianBlur):
        assert all(field.description for field in model.model_fields.values()), model.__name__


@pytest.mark.parametrize(
    ("groups", "size", "num_frames"),
    [
        ({"images": CropGroup(count=2)}, 18_920, 1),
        ({"images": CropGroup(), "small": CropGroup(count=8, size=10_000)}, 224, 1),
        ({"images": CropGroup()}, 224, 14_267),
    ],
)
def test_views_that_no_row_can_hold_are_refused(
    groups: dict[str, CropGroup], size: int, num_frames: int
) -> None:
    with pytest.raises(ValueError, match=r"are 2\S* GiB a sample, which can have 2"):
        Views(size=size, groups=groups).check_bytes(num_frames)
    smaller = {
        name: group.model_copy(update={"size": group.size and group.size - 600})
        for name, group in groups.items()
    }
    Views(size=size - 3, groups=smaller).check_bytes(num_frames)
