"""augment.generator: one sample, one result, whatever the batch, the placement and the rest of the
recipe."""

import numpy as np
import pytest
import torch
from torch import Tensor

from augment.execution.cutter import Cutter
from augment.generator import ViewGenerator
from augment.picture import Picture
from augment.presets import simclr_views
from augment.recipe import CropGroup, Views
from models.masked.mae import MAE

SAMPLES = torch.tensor([11, -5, 2**40, 3, 8])
EPOCHS = torch.tensor([0, 0, 1, 1, 0])


def photo(height: int, width: int, seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(
        0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8
    )
    return np.ascontiguousarray(coarse.repeat(8, axis=0).repeat(8, axis=1)[:height, :width])


PHOTOS = [
    photo(height, width, i)
    for i, (height, width) in enumerate([(60, 80), (90, 40), (64, 64), (33, 97), (50, 50)])
]


def crops(generator: ViewGenerator, rows: list[int] | None = None) -> dict[str, Tensor]:
    rows = list(range(5)) if rows is None else rows
    made = generator.make_crops([PHOTOS[i] for i in rows], EPOCHS[rows], SAMPLES[rows])
    return {name: torch.from_numpy(array) for name, array in made.items()}


def denormalised(views: Views, x: Tensor) -> Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in (views.mean, views.std))
    return x * std + mean


@pytest.fixture
def simclr() -> ViewGenerator:
    return ViewGenerator(simclr_views(32), seed=0)


def test_crops_and_views_have_the_documented_layout() -> None:
    groups = {"global_crops": CropGroup(count=2), "local_crops": CropGroup(count=3, size=16)}
    generator = ViewGenerator(Views(size=32, groups=groups), seed=0)
    made = crops(generator)
    assert {name: (x.dtype, tuple(x.shape)) for name, x in made.items()} == {
        "global_crops": (torch.uint8, (5, 2, 3, 32, 32)),
        "local_crops": (torch.uint8, (5, 3, 3, 16, 16)),
    }
    views = generator(made, EPOCHS, SAMPLES)
    assert {name: (x.dtype, tuple(x.shape)) for name, x in views.items()} == {
        "global_crops": (torch.float32, (2, 5, 3, 32, 32)),
        "local_crops": (torch.float32, (3, 5, 3, 16, 16)),
    }
    assert all(x.is_contiguous() for x in views.values())


def test_without_colour_changes_a_view_is_its_normalised_crop() -> None:
    generator = ViewGenerator(MAE.default_views(32), seed=0)
    made = crops(generator)
    (view,) = generator(made, EPOCHS, SAMPLES).values()
    restored = denormalised(generator.views, view.transpose(0, 1)) * 255
    torch.testing.assert_close(restored, made["global_crops"].float(), atol=1e-3, rtol=0)


def test_a_sample_looks_the_same_in_any_batch(simclr: ViewGenerator) -> None:
    rows = [3, 0]
    whole, part = crops(simclr), crops(simclr, rows)
    assert torch.equal(part["global_crops"], whole["global_crops"][rows])
    whole_views = simclr(whole, EPOCHS, SAMPLES)["global_crops"]
    part_views = simclr(part, EPOCHS[rows], SAMPLES[rows])["global_crops"]
    torch.testing.assert_close(part_views, whole_views[:, rows], atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [32, 96])
def test_colours_changed_in_the_decode_task_differ_by_rounding_alone(size: int) -> None:
    generator = ViewGenerator(simclr_views(size), seed=0)
    made = crops(generator)
    early = generator.photometric(made, EPOCHS, SAMPLES)
    assert early["global_crops"].dtype == torch.uint8
    there = generator(early, EPOCHS, SAMPLES, photometric_done=True)["global_crops"]
    here = generator(made, EPOCHS, SAMPLES)["global_crops"]
    levels = denormalised(generator.views, there - here) - denormalised(
        generator.views, torch.zeros(3, 1, 1)
    )
    assert levels.abs().max() * 255 <= 0.501
    assert here.std() > 0.1


@pytest.mark.parametrize("photometric_done", [False, True])
def test_views_in_bfloat16_are_those_in_float32_within_twice_the_tolerance(
    photometric_done: bool,
) -> None:
    exact, generator = (
        ViewGenerator(simclr_views(96), 0, dtype) for dtype in (torch.float32, torch.bfloat16)
    )
    made = crops(generator)
    if photometric_done:
        made = generator.photometric(made, EPOCHS, SAMPLES)
    ours, theirs = (
        g(made, EPOCHS, SAMPLES, photometric_done=photometric_done)["global_crops"]
        for g in (generator, exact)
    )
    assert ours.dtype == torch.bfloat16 and ours.is_contiguous()
    black = denormalised(exact.views, torch.zeros(3, 1, 1))
    levels = (denormalised(exact.views, ours.float() - theirs) - black).abs() * 255
    assert levels.mean() <= 2 and (levels <= 8).double().mean() >= 0.999


def test_crops_that_no_change_touches_stay_float32_for_methods_that_predict_them() -> None:
    exact, generator = (
        ViewGenerator(MAE.default_views(32), 0, dtype) for dtype in (torch.float32, torch.bfloat16)
    )
    made = crops(generator)
    ours, theirs = (g(made, EPOCHS, SAMPLES)["global_crops"] for g in (generator, exact))
    assert torch.equal(ours, theirs)


def test_views_epochs_and_seeds_change_the_pixels(simclr: ViewGenerator) -> None:
    made = crops(simclr)["global_crops"]
    assert (made[:, 0] != made[:, 1]).flatten(1).any(dim=1).all()
    again = simclr.make_crops(PHOTOS, EPOCHS + 1, SAMPLES)["global_crops"]
    assert (made.numpy() != again).reshape(5, -1).any(axis=1).all()
    reseeded = crops(ViewGenerator(simclr.views, seed=1))["global_crops"]
    assert (made != reseeded).flatten(1).any(dim=1).all()


def test_a_group_added_at_the_end_leaves_the_first_views_alone(simclr: ViewGenerator) -> None:
    groups = simclr.views.groups | {"local_crops": CropGroup(count=4, size=16)}
    more = ViewGenerator(Views(size=32, groups=groups), seed=0)
    assert torch.equal(crops(more)["global_crops"], crops(simclr)["global_crops"])


def test_views_of_equal_recipes_in_two_groups_are_drawn_apart() -> None:
    generator = ViewGenerator(Views(size=32, groups={"a": CropGroup(), "b": CropGroup()}), seed=0)
    made = crops(generator)
    assert (made["a"] != made["b"]).flatten(1).any(dim=1).all()


def test_the_crops_are_left_untouched(simclr: ViewGenerator) -> None:
    made = crops(simclr)
    before = made["global_crops"].clone()
    simclr(made, EPOCHS, SAMPLES)
    simclr.photometric(made, EPOCHS, SAMPLES)
    assert torch.equal(made["global_crops"], before)


def test_an_empty_block_gives_empty_views(simclr: ViewGenerator) -> None:
    assert simclr(crops(simclr, []), EPOCHS[:0], SAMPLES[:0])["global_crops"].shape == (
        2,
        0,
        3,
        32,
        32,
    )


def test_on_a_device_no_value_is_read_back() -> None:
    generator = ViewGenerator(simclr_views(96), seed=0)
    made = {"global_crops": torch.empty(5, 2, 3, 96, 96, dtype=torch.uint8, device="meta")}
    views = generator(made, EPOCHS.to("meta"), SAMPLES.to("meta"))
    assert views["global_crops"].shape == (2, 5, 3, 96, 96)


@pytest.mark.gpu
def test_compiled_changes_on_cuda_equal_those_that_are_not() -> None:
    groups = simclr_views(48).groups | {"local_crops": simclr_views(32).groups["global_crops"]}
    made = None
    views = []
    for compiled in (False, True):
        generator = ViewGenerator(Views(size=48, groups=groups, compile=compiled), seed=0)
        made = made or {name: x.cuda() for name, x in crops(generator).items()}
        views.append(generator(made, EPOCHS.cuda(), SAMPLES.cuda()))
    for name in groups:
        # a grey level and normalised
        torch.testing.assert_close(views[1][name], views[0][name], atol=0.02, rtol=0)


def test_views_are_cut_in_turn_from_the_clips_of_a_sample() -> None:
    views = Views(size=16, groups={"a": CropGroup(count=2), "b": CropGroup()})
    generator = ViewGenerator(views, seed=0)
    early, late = PHOTOS[2], PHOTOS[2][::-1]
    clips = np.stack([early, early, late, late])  # two clips of two frames
    columns = {
        "a": np.empty((1, 2, 2, 3, 16, 16), np.uint8),
        "b": np.empty((1, 1, 2, 3, 16, 16), np.uint8),
    }
    keys = EPOCHS[:1], SAMPLES[:1]
    rows = (key.numpy() for key in keys)
    Cutter(views, 0, columns, *rows, photometric=False).fill(0, Picture.whole(clips))
    for clip, group, view in ((early, "a", 0), (late, "a", 1), (early, "b", 0)):
        alone = generator.make_crops([np.ascontiguousarray(clip)], *keys)[group][0, view]
        assert np.array_equal(columns[group][0, view], np.stack([alone, alone]))
