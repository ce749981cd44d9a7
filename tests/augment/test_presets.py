"""augment.presets: the papers' recipes, to the letter at 224 px, gentler on small images."""

from augment.ops import ColorJitter, GaussianBlur, Greyscale, Solarize
from augment.presets import byol_views, local_size, moco_v2_views, simclr_views


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


def test_moco_v2_is_simclr_with_gentler_colours_and_crops() -> None:
    (group,) = moco_v2_views(224).groups.values()
    assert group.count == 2 and group.scale == (0.2, 1.0)
    assert group.color_jitter == ColorJitter(
        p=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1
    )
    assert group.blur == GaussianBlur(p=0.5, sigma=(0.1, 2.0))


def test_byols_views_differ_in_blur_and_solarisation_alone() -> None:
    first, second = byol_views(224).groups.values()
    assert (first.blur, first.solarize) == (GaussianBlur(p=1.0), None)
    assert (second.blur, second.solarize) == (GaussianBlur(p=0.1), Solarize(p=0.2, threshold=0.5))
    assert first == second.model_copy(update={"blur": first.blur, "solarize": None})
    assert first.color_jitter == ColorJitter(
        p=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1
    )


def test_small_views_of_multi_crop_are_96_of_224_px_and_fit_patches_of_8() -> None:
    assert local_size(224) == 96
    assert all(local_size(size) % 8 == 0 for size in range(8, 300))
