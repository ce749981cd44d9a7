"""augment.recipe: recipes refuse what makes no sense, and number their views."""

from collections.abc import Callable

import pytest
import yaml
from pydantic import ValidationError

from augment.recipe import (
    ColorJitter,
    CropGroup,
    GaussianBlur,
    Greyscale,
    Solarize,
    Views,
    byol_views,
    dino_views,
    mae_views,
    moco_v1_views,
    moco_v2_views,
    simclr_views,
    swav_views,
    videomae_views,
)

PRESETS = (
    simclr_views,
    moco_v1_views,
    moco_v2_views,
    byol_views,
    dino_views,
    swav_views,
    mae_views,
    videomae_views,
)

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


def test_simclr_at_224_px_is_the_papers_recipe() -> None:
    (group,) = simclr_views(224).groups.values()
    assert group.count == 2 and group.scale == (0.08, 1.0)
    assert group.color_jitter == ColorJitter(
        p=0.8, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2
    )
    assert group.greyscale == Greyscale(p=0.2)
    assert group.blur == GaussianBlur(p=0.5, sigma=(0.1, 2.0))


def test_simclr_on_small_images_halves_the_colours_and_leaves_out_the_blur() -> None:
    (group,) = simclr_views(32).groups.values()
    assert group.color_jitter == ColorJitter(
        p=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1
    )
    assert group.blur is None


def test_mae_crops_and_flips_and_leaves_colours_alone() -> None:
    (group,) = mae_views(224).groups.values()
    assert group == CropGroup(count=1, scale=(0.2, 1.0), flip=0.5)


def test_moco_v1_and_v2_differ_in_hue_certainty_and_blur() -> None:
    (v1,), (v2,) = moco_v1_views(224).groups.values(), moco_v2_views(224).groups.values()
    assert v1.count == v2.count == 2 and v1.scale == v2.scale == (0.2, 1.0)
    assert v1.color_jitter == ColorJitter(
        p=1.0, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4
    )
    assert v2.color_jitter == ColorJitter(
        p=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1
    )
    assert v1.blur is None and v2.blur == GaussianBlur(p=0.5, sigma=(0.1, 2.0))


def test_byols_views_differ_in_blur_and_solarisation_alone() -> None:
    first, second = byol_views(224).groups.values()
    assert (first.blur, first.solarize) == (GaussianBlur(p=1.0), None)
    assert (second.blur, second.solarize) == (GaussianBlur(p=0.1), Solarize(p=0.2, threshold=0.5))
    assert first == second.model_copy(update={"blur": first.blur, "solarize": None})
    assert first.color_jitter == ColorJitter(
        p=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1
    )


def test_dino_and_swav_are_multi_crop_with_the_papers_scales() -> None:
    dino, swav = dino_views(224), swav_views(224)
    assert [(g.count, g.size, g.scale) for g in dino.groups.values()] == [
        (1, None, (0.4, 1.0)),
        (1, None, (0.4, 1.0)),
        (8, 96, (0.05, 0.4)),
    ]
    assert [(g.count, g.size, g.scale) for g in swav.groups.values()] == [
        (2, None, (0.14, 1.0)),
        (6, 96, (0.05, 0.14)),
    ]
    assert {g.color_jitter for g in swav.groups.values()} == {ColorJitter()}


def test_videomae_crops_and_flips_and_leaves_colours_alone() -> None:
    (group,) = videomae_views(224).groups.values()
    assert group == CropGroup(count=1, scale=(0.5, 1.0), flip=0.5)


@pytest.mark.parametrize("preset", PRESETS)
def test_small_images_are_never_blurred_and_patches_of_8_px_fit(
    preset: Callable[[int], Views],
) -> None:
    for size in (32, 64):
        views = preset(size)
        assert all(group.blur is None for group in views.groups.values())
        assert all(views.group_size(name) % 8 == 0 for name in views.groups)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_survive_yaml(preset: Callable[[int], Views]) -> None:
    views = preset(224)
    assert (
        Views.model_validate(
            yaml.safe_load(yaml.safe_dump(views.model_dump(mode="json"), sort_keys=False))
        )
        == views
    )
