"""augment.kornia_ops: a batch equals one image after the other through Kornia's and torchvision's operators."""

import math
from collections.abc import Callable

import kornia
import pytest
import torch
from torch import Tensor
from torchvision.transforms import functional as torchvision

from augment import kornia_ops
from augment.kornia_ops import apply_photometric
from augment.recipe import ColorJitter, CropGroup, GaussianBlur, Greyscale, Solarize
from augment.sample import JITTER_OPS, sample_photometric

JITTER = CropGroup(color_jitter=ColorJitter())
ALL = CropGroup(
    color_jitter=ColorJitter(),
    greyscale=Greyscale(p=0.4),
    blur=GaussianBlur(sigma=(0.4, 2.0)),
    solarize=Solarize(p=0.5, threshold=0.6),
)
OPS = ("color_jitter", "greyscale", "blur", "solarize")

KORNIA: dict[str, Callable[[Tensor, float], Tensor]] = {
    "brightness": kornia.enhance.adjust_brightness_accumulative,
    "contrast": kornia.enhance.adjust_contrast_with_mean_subtraction,
    "saturation": kornia.enhance.adjust_saturation_with_gray_subtraction,
    "hue": lambda x, turns: kornia.enhance.adjust_hue(x, turns * 2 * math.pi),
}
TORCHVISION: dict[str, Callable[[Tensor, float], Tensor]] = {
    "brightness": torchvision.adjust_brightness,
    "contrast": torchvision.adjust_contrast,
    "saturation": torchvision.adjust_saturation,
    "hue": torchvision.adjust_hue,
}


def images(num: int, side: int = 20) -> Tensor:
    x = torch.rand(num, 3, side, side, generator=torch.Generator().manual_seed(0))
    x[0], x[1], x[2] = 0.0, 1.0, 0.5  # no hue, no saturation, no contrast
    return x


def draws_of(group: CropGroup, num: int, device: str = "cpu") -> dict[str, Tensor]:
    samples = torch.arange(num, device=device)
    return sample_photometric(group, seed=3, epoch=torch.zeros_like(samples), sample_id=samples, view=0)


def one_by_one(x: Tensor, draws: dict[str, Tensor], operators: dict[str, Callable[[Tensor, float], Tensor]]) -> Tensor:
    """The whole recipe for each image alone, in plain loops."""
    rows = []
    for i, image in enumerate(x):
        if draws["color_jitter.apply"][i]:
            for op in draws["color_jitter.order"][i].tolist():
                image = operators[JITTER_OPS[op]](image, draws[f"color_jitter.{JITTER_OPS[op]}"][i].item())
        if draws["greyscale.apply"][i]:
            image = torchvision.rgb_to_grayscale(image, num_output_channels=3)
        if draws["blur.apply"][i]:
            image = torchvision.gaussian_blur(image, [3, 3], [draws["blur.sigma"][i].item()])
        if draws["solarize.apply"][i]:
            image = torchvision.solarize(image, draws["solarize.threshold"][i].item())
        rows.append(image)
    return torch.stack(rows)


def test_the_jitter_equals_kornias_operators_on_one_image_at_a_time() -> None:
    x, draws = images(64), draws_of(JITTER, 64)
    assert len(draws["color_jitter.order"].unique(dim=0)) > 15
    never = {f"{op}.apply": torch.zeros(64, dtype=torch.bool) for op in OPS[1:]}
    torch.testing.assert_close(
        apply_photometric(x, JITTER, draws), one_by_one(x, draws | never, KORNIA), atol=1e-6, rtol=0
    )


def test_the_whole_recipe_equals_torchvisions_operators_on_one_image_at_a_time() -> None:
    x, draws = images(64), draws_of(ALL, 64)
    ours, theirs = apply_photometric(x, ALL, draws), one_by_one(x, draws, TORCHVISION)
    # torchvision's luma weights are rounded to 0.2989; a value beside the threshold may then fall on its other side.
    different = (ours - theirs).abs() > 1e-3
    assert different.double().mean() < 1e-3


@pytest.mark.parametrize("op", OPS)
def test_an_image_whose_draw_says_no_is_kept_to_the_bit(op: str) -> None:
    group = CropGroup.model_validate({op: getattr(ALL, op).model_dump() | {"p": 0.5}})
    x, draws = images(64), draws_of(group, 64)
    out, applied = apply_photometric(x, group, draws), draws[f"{op}.apply"]
    assert 16 < applied.sum() < 48
    assert torch.equal(out[~applied], x[~applied])
    assert (out != x).flatten(1).any(dim=1)[3:][applied[3:]].all()


def test_computing_all_images_equals_computing_the_chosen_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    x, draws = images(64), draws_of(ALL, 64)
    on_chosen = apply_photometric(x, ALL, draws)
    monkeypatch.setattr(kornia_ops, "_where", kornia_ops._on_all)
    torch.testing.assert_close(apply_photometric(x, ALL, draws), on_chosen, atol=1e-6, rtol=0)


def test_on_a_device_no_value_is_read_back() -> None:
    # Meta tensors have no values: nonzero, item or a branch on one raises.
    out = apply_photometric(torch.empty(8, 3, 32, 32, device="meta"), ALL, draws_of(ALL, 8, device="meta"))
    assert out.shape == (8, 3, 32, 32) and out.dtype == torch.float32


def test_an_image_does_not_depend_on_its_batch() -> None:
    x, draws = images(64), draws_of(ALL, 64)
    order = torch.arange(63, 0, -3)
    part = apply_photometric(x[order], ALL, {name: value[order] for name, value in draws.items()})
    torch.testing.assert_close(part, apply_photometric(x, ALL, draws)[order], atol=1e-6, rtol=0)


def test_the_input_is_left_untouched_and_the_output_stays_in_range() -> None:
    x, draws = images(64), draws_of(ALL, 64)
    before = x.clone()
    out = apply_photometric(x, ALL, draws)
    assert torch.equal(x, before)
    assert out.isfinite().all() and out.min() >= -1e-6 and out.max() <= 1 + 1e-6


def test_a_jitter_of_strength_zero_changes_nothing() -> None:
    group = CropGroup(color_jitter=ColorJitter(p=1, brightness=0, contrast=0, saturation=0, hue=0))
    assert torch.equal(apply_photometric(images(8), group, draws_of(group, 8)), images(8))


@pytest.mark.parametrize(("side", "taps"), [(20, 3), (32, 3), (96, 9), (224, 23)])
def test_a_point_blurs_into_the_gaussian_of_its_own_sigma(side: int, taps: int) -> None:
    group = CropGroup(blur=GaussianBlur(p=1))
    points = torch.zeros(4, 3, side, side)
    points[:, :, side // 2, side // 2] = 1
    draws = draws_of(group, 4)
    out = apply_photometric(points, group, draws)
    offsets = torch.arange(taps) - taps // 2
    weights = torch.exp(-(offsets**2) / (2 * draws["blur.sigma"][:, None] ** 2))
    weights /= weights.sum(dim=1, keepdim=True)
    expected = (weights[:, :, None] * weights[:, None, :])[:, None].expand(-1, 3, -1, -1)
    inside = slice(side // 2 - taps // 2, side // 2 + taps // 2 + 1)
    torch.testing.assert_close(out[:, :, inside, inside], expected)
    torch.testing.assert_close(out.sum(dim=(2, 3)), torch.ones(4, 3))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_equals_cpu_and_never_waits() -> None:
    x, samples = images(64).cuda(), torch.arange(64, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        draws = sample_photometric(ALL, seed=3, epoch=torch.zeros_like(samples), sample_id=samples, view=0)
        out = apply_photometric(x, ALL, draws)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    different = (out.cpu() - apply_photometric(images(64), ALL, draws_of(ALL, 64))).abs() > 1e-4
    assert different.double().mean() < 1e-3  # values beside the threshold of the solarisation
