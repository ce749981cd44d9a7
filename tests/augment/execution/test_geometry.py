"""augment.execution.geometry: crops equal Pillow's antialiased ones."""

import numpy as np
import pytest
from PIL import Image

from augment.execution.geometry import REDUCTIONS, centre_crop, crop_resize, reduction_for
from augment.kernels.resize import MAX_SCALE
from augment.picture import Picture


def photo(height: int, width: int) -> np.ndarray:
    """Smooth colours, an edge and some noise."""
    rows, columns = np.mgrid[0:height, 0:width]
    image = (
        np.stack([np.sin(rows / 9), np.cos(columns / 7), (rows > columns) * 2.0 - 1], axis=-1) * 100
        + 128
    )
    noise = np.random.default_rng(0).normal(0, 8, image.shape)
    return np.ascontiguousarray((image + noise).clip(0, 255).astype(np.uint8))


def crop(image: np.ndarray, box: tuple[int, int, int, int], flip: bool, size: int) -> np.ndarray:
    out = np.empty((3, size, size), np.uint8)
    crop_resize(Picture.whole(image), *box, flip, size, out)
    return out


@pytest.mark.parametrize("size", [32, 96, 224])
@pytest.mark.parametrize(
    "box",
    [(0, 0, 300, 400), (10, 20, 250, 180), (5, 7, 40, 300), (100, 100, 9, 11), (299, 399, 1, 1)],
)
def test_a_crop_equals_pillows_up_to_two_grey_levels(
    box: tuple[int, int, int, int], size: int
) -> None:
    image, (top, left, height, width) = photo(300, 400), box
    cut = Image.fromarray(image).crop((left, top, left + width, top + height))
    expected = np.asarray(cut.resize((size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    difference = np.abs(crop(image, box, False, size).astype(int) - expected)
    assert difference.max() <= 2
    assert difference.mean() < 0.3  # the rounding of two fixed-point filters


def test_a_flip_mirrors_left_and_right_exactly() -> None:
    box = (10, 20, 250, 180)
    assert np.array_equal(
        crop(photo(300, 400), box, True, 32), crop(photo(300, 400), box, False, 32)[:, :, ::-1]
    )


def test_a_box_of_the_views_size_is_copied_exactly() -> None:
    image = photo(300, 400)
    assert np.array_equal(
        crop(image, (30, 40, 64, 64), False, 64), image[30:94, 40:104].transpose(2, 0, 1)
    )


def test_shrinking_averages_fine_stripes_instead_of_aliasing_them() -> None:
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    middle = crop(stripes, (0, 0, 256, 256), False, 30)[:, :, 2:-2]
    assert np.abs(middle.astype(int) - 127).max() < 12


def test_the_result_can_be_a_row_of_a_batch() -> None:
    batch = np.zeros((3, 2, 3, 32, 32), np.uint8)
    crop_resize(Picture.whole(photo(300, 400)), 0, 0, 300, 400, True, 32, batch[1, 1])
    assert np.array_equal(batch[1, 1], crop(photo(300, 400), (0, 0, 300, 400), True, 32))
    assert batch[[0, 2]].max() == 0 and batch[1, 0].max() == 0


@pytest.mark.parametrize(
    ("height", "width", "box"), [(300, 400, (0, 50, 300, 300)), (401, 300, (50, 0, 300, 300))]
)
def test_centre_crop_takes_the_largest_centred_square(
    height: int, width: int, box: tuple[int, int, int, int]
) -> None:
    image, out = photo(height, width), np.empty((3, 64, 64), np.uint8)
    centre_crop(Picture.whole(image), 64, out)
    assert np.array_equal(out, crop(image, box, False, 64))


@pytest.mark.parametrize("size", [16, 96, 224])
@pytest.mark.parametrize("scale", [0.3, 1.0, 1.7, MAX_SCALE])
def test_noise_is_resized_as_pillow_does_at_every_scale_of_the_compiled_kernel(
    size: int, scale: float
) -> None:
    height, width = round(size * scale), max(1, round(size * scale) - 3)
    noise = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = np.asarray(
        Image.fromarray(noise).resize((size, size), Image.Resampling.BILINEAR)
    ).transpose(2, 0, 1)
    assert np.abs(crop(noise, (0, 0, height, width), False, size).astype(int) - expected).max() <= 2


def test_a_clip_is_cut_alike_in_every_frame() -> None:
    clip = np.stack([photo(90, 120), photo(90, 120)[::-1], photo(90, 120)[:, ::-1]])
    out = np.empty((3, 3, 32, 32), np.uint8)
    crop_resize(Picture.whole(clip), 5, 7, 60, 80, True, 32, out)
    for frame, view in zip(clip, out, strict=True):
        assert np.array_equal(view, crop(np.ascontiguousarray(frame), (5, 7, 60, 80), True, 32))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("flip", [False, True])
def test_a_reduced_picture_is_cut_where_the_whole_one_is(reduction: int, flip: bool) -> None:
    few = photo(301, 403)
    # of the last, not all is there
    height, width = (
        301 * reduction - 1,
        403 * reduction - (reduction - 1),
    )
    whole = few.repeat(reduction, axis=0).repeat(reduction, axis=1)[:height, :width].copy()
    reduced = Picture(few, height, width, reduction)
    rest = reduction - 1
    for box in [
        (0, 0, height, width),
        (rest, 3, 200 * reduction - rest, 250 * reduction),
        (height - 499, 1, 499, 601),
    ]:
        out = np.empty((3, 32, 32), np.uint8)
        crop_resize(reduced, *box, flip, 32, out)
        assert np.abs(out.astype(int) - crop(whole, box, flip, 32)).max() <= 2


@pytest.mark.parametrize(
    ("box", "size", "reduction"),
    [
        ((895, 2000), 224, 1),
        ((896, 2000), 224, 2),
        ((2000, 896), 224, 2),
        ((1791, 1791), 224, 2),
        ((1792, 1792), 224, 4),
        ((10_000, 10_000), 224, 8),
        ((10_000, 10_000), 16, 1),  # not by the compiled kernel
        ((40, 3000), 32, 1),
        ((300, 5000), 32, 1),  # reduced so that its height is enough, too wide for the kernel
    ],
)
def test_a_view_still_shrinks_twice_what_was_decoded_smaller(
    box: tuple[int, int], size: int, reduction: int
) -> None:
    assert reduction_for(*box, size) == reduction
