"""augment.sample: draws have the distributions of torchvision's transforms and belong to their
sample."""

import math

import pytest
import torch
from scipy.stats import ks_2samp
from torch import Tensor
from torchvision.transforms import RandomResizedCrop

from augment.recipe import ColorJitter, CropGroup, GaussianBlur, Greyscale, Solarize
from augment.sample import CropDraws, sample_crops, sample_photometric

NUM = 4000
ALL = CropGroup(
    color_jitter=ColorJitter(),
    greyscale=Greyscale(),
    blur=GaussianBlur(),
    solarize=Solarize(threshold=0.4),
)


def crops(group: CropGroup, height: int, width: int, num: int = NUM, **key: object) -> CropDraws:
    key = {
        "epoch": torch.zeros(num, dtype=torch.int64),
        "sample_id": torch.arange(num),
        "view": 0,
    } | key
    rows = len(key["sample_id"])
    sizes = {"image_height": torch.full((rows,), height), "image_width": torch.full((rows,), width)}
    return sample_crops(group, seed=0, **key, **sizes)


def colours(
    group: CropGroup, num: int = NUM, view: int | Tensor = 0, samples: Tensor | None = None
) -> dict[str, Tensor]:
    samples = torch.arange(num) if samples is None else samples
    return sample_photometric(
        group, seed=0, epoch=torch.zeros_like(samples), sample_id=samples, view=view
    )


@pytest.mark.parametrize(("height", "width"), [(300, 400), (500, 333), (32, 32), (60, 400)])
def test_boxes_are_distributed_as_torchvisions(height: int, width: int) -> None:
    ours = torch.tensor(list(crops(CropGroup(), height, width).boxes()))[:, :4]
    torch.manual_seed(0)
    blank = torch.empty(3, height, width)
    theirs = torch.tensor(
        [RandomResizedCrop.get_params(blank, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(NUM)]
    )
    for name, a, b in zip(("top", "left", "height", "width"), ours.T, theirs.T, strict=True):
        assert ks_2samp(a, b).pvalue > 1e-3, name
    assert ks_2samp(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]).pvalue > 1e-3


@pytest.mark.parametrize(("height", "width"), [(300, 400), (1, 1), (1, 7), (3000, 2), (17, 5)])
def test_boxes_lie_inside_the_image_and_are_not_empty(height: int, width: int) -> None:
    draws = crops(CropGroup(), height, width)
    assert draws.height.min() >= 1 and draws.width.min() >= 1
    assert draws.top.min() >= 0 and (draws.top + draws.height).max() <= height
    assert draws.left.min() >= 0 and (draws.left + draws.width).max() <= width


@pytest.mark.parametrize(("height", "width"), [(10, 1000), (1000, 10)])
def test_an_image_no_box_fits_gets_torchvisions_central_crop(height: int, width: int) -> None:
    theirs = RandomResizedCrop.get_params(torch.empty(3, height, width), [0.5, 1.0], [3 / 4, 4 / 3])
    assert {
        box[:4] for box in crops(CropGroup(scale=(0.5, 1.0)), height, width, num=50).boxes()
    } == {theirs}


# 10 * sqrt(share) is 5.48 and 5.66
@pytest.mark.parametrize(("share", "side"), [(0.30, 5), (0.32, 6)])
def test_sides_are_rounded_to_the_nearest_pixel(share: float, side: int) -> None:
    draws = crops(CropGroup(scale=(share, share), ratio=(1.0, 1.0)), 10, 10, num=5)
    assert draws.height.unique().tolist() == draws.width.unique().tolist() == [side]


def test_boxes_reach_every_edge() -> None:
    draws = crops(CropGroup(), 12, 12)
    assert draws.top.min() == 0 and (draws.top + draws.height).max() == 12
    assert draws.left.min() == 0 and (draws.left + draws.width).max() == 12


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_flips_happen_as_often_as_asked(p: float) -> None:
    share = crops(CropGroup(flip=p), 30, 40).flip.double().mean()
    assert abs(share - p) <= 4 * math.sqrt(p * (1 - p) / NUM)


def test_a_samples_draws_do_not_depend_on_its_batch() -> None:
    order = torch.randperm(NUM)[:50]
    whole, part = (
        list(crops(CropGroup(), 300, 400).boxes()),
        crops(CropGroup(), 300, 400, num=50, sample_id=order),
    )
    assert list(part.boxes()) == [whole[i] for i in order.tolist()]
    all_colours, some_colours = colours(ALL), colours(ALL, samples=order)
    assert all(torch.equal(some_colours[name], all_colours[name][order]) for name in all_colours)


def test_views_of_a_sample_differ() -> None:
    first, second = (crops(CropGroup(), 300, 400, view=view) for view in (0, 1))
    assert (first.height == second.height).double().mean() < 0.05
    sigmas = [colours(ALL, view=view)["blur.sigma"] for view in (0, 1)]
    assert torch.corrcoef(torch.stack(sigmas))[0, 1].abs() < 4 / NUM**0.5


def test_each_change_is_applied_as_often_as_asked_and_independently() -> None:
    draws = colours(ALL)
    expected = {"color_jitter": 0.8, "greyscale": 0.2, "blur": 0.5, "solarize": 0.2}
    applied = torch.stack([draws[f"{op}.apply"].double() for op in expected])
    assert (
        applied.mean(dim=1) - torch.tensor(list(expected.values()))
    ).abs().max() < 4 * 0.5 / NUM**0.5
    assert (torch.corrcoef(applied) - torch.eye(4)).abs().max() < 4 / NUM**0.5


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("color_jitter.brightness", 0.6, 1.4),
        ("color_jitter.contrast", 0.0, 2.5),
        ("color_jitter.saturation", 0.2, 1.8),
        ("color_jitter.hue", -0.1, 0.1),
        ("blur.sigma", 0.1, 2.0),
    ],
)
def test_parameters_fill_torchvisions_ranges_evenly(name: str, low: float, high: float) -> None:
    jitter = ColorJitter(brightness=0.4, contrast=1.5, saturation=0.8, hue=0.1)
    values = colours(CropGroup(color_jitter=jitter, blur=GaussianBlur()))[name]
    assert values.dtype == torch.float32
    counts = torch.histc(values, bins=20, min=low, max=high)
    assert counts.sum() == NUM, "outside of the range"
    assert (counts - NUM / 20).abs().max() < 5 * (NUM / 20) ** 0.5


def test_all_orders_of_the_jitter_are_equally_likely() -> None:
    order = colours(ALL)["color_jitter.order"]
    assert torch.equal(order.sort(dim=1).values, torch.arange(4).expand(NUM, 4))
    counts = (order * torch.tensor([64, 16, 4, 1])).sum(dim=1).unique(return_counts=True)[1]
    assert len(counts) == 24
    assert (counts - NUM / 24).abs().max() < 5 * (NUM / 24) ** 0.5


def test_a_change_missing_from_the_recipe_draws_nothing_and_disturbs_no_other() -> None:
    assert colours(CropGroup()) == {}
    alone, together = colours(CropGroup(blur=GaussianBlur())), colours(ALL)
    assert set(alone) == {"blur.apply", "blur.sigma"}
    assert all(torch.equal(alone[name], together[name]) for name in alone)
    assert together["solarize.threshold"].unique().tolist() == pytest.approx([0.4])
