"""kornia_ops: a batch equals one image after the other through Kornia's and torchvision's
operators."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager

import kornia
import pytest
import torch
from torch import Tensor
from torchvision.transforms import functional as torchvision

from augment.execution import kornia_ops
from augment.execution.kornia_ops import apply_photometric
from augment.ops import (
    Affine,
    ChannelDrop,
    ColorJitter,
    Cutout,
    GaussianBlur,
    GaussianNoise,
    Greyscale,
    QuarterTurns,
    Rotate,
    Sobel,
    Solarize,
)
from augment.recipe import CropGroup
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
    return sample_photometric(
        group, seed=3, epoch=torch.zeros_like(samples), sample_id=samples, view=0
    )


def one_by_one(
    x: Tensor, draws: dict[str, Tensor], operators: dict[str, Callable[[Tensor, float], Tensor]]
) -> Tensor:
    """The whole recipe for each image alone, in plain loops."""
    rows = []
    for i, image in enumerate(x):
        if draws["color_jitter.apply"][i]:
            for op in draws["color_jitter.order"][i].tolist():
                image = operators[JITTER_OPS[op]](
                    image, draws[f"color_jitter.{JITTER_OPS[op]}"][i].item()
                )
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
    # torchvision's luma weights are rounded to 0.2989; a value beside the threshold may then fall
    # on its other side.
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


def test_computing_all_images_equals_computing_the_chosen_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, draws = images(64), draws_of(ALL, 64)
    on_chosen = apply_photometric(x, ALL, draws)
    monkeypatch.setattr(kornia_ops, "_where", kornia_ops._on_all)
    torch.testing.assert_close(apply_photometric(x, ALL, draws), on_chosen, atol=1e-6, rtol=0)


def test_on_a_device_no_value_is_read_back() -> None:
    # Meta tensors have no values: nonzero, item or a branch on one raises.
    out = apply_photometric(
        torch.empty(8, 3, 32, 32, device="meta"), ALL, draws_of(ALL, 8, device="meta")
    )
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
def test_cuda_equals_cpu_and_never_waits(never_waits: AbstractContextManager[None]) -> None:
    x, samples = images(64).cuda(), torch.arange(64, device="cuda")
    with never_waits:
        draws = sample_photometric(
            ALL, seed=3, epoch=torch.zeros_like(samples), sample_id=samples, view=0
        )
        out = apply_photometric(x, ALL, draws)
    different = (out.cpu() - apply_photometric(images(64), ALL, draws_of(ALL, 64))).abs() > 1e-4
    assert different.double().mean() < 1e-3  # values beside the threshold of the solarisation


EVERY_OP = CropGroup(
    quarter_turns=QuarterTurns(),
    rotate=Rotate(degrees=40),
    affine=Affine(),
    channel_drop=ChannelDrop(num=1),
    noise=GaussianNoise(),
    cutout=Cutout(),
    sobel=Sobel(),
)


def alone(op: str, **settings: float) -> tuple[CropGroup, dict[str, Tensor]]:
    """A recipe of one change, applied to every image, and its draws for 64 images."""
    group = CropGroup.model_validate({op: {"p": 1} | settings})
    return group, draws_of(group, 64)


def test_quarter_turns_are_exact_and_equally_likely() -> None:
    group, draws = alone("quarter_turns")
    x, turns = images(64), draws["quarter_turns.turns"]
    expected = torch.stack(
        [torch.rot90(image, int(k), (1, 2)) for image, k in zip(x, turns, strict=True)]
    )
    assert torch.equal(apply_photometric(x, group, draws), expected)
    assert turns.bincount(minlength=4).min() >= 8


def test_a_rotation_and_an_affine_map_equal_torchvisions() -> None:
    smooth = torch.nn.functional.interpolate(images(64, 8), size=33, mode="bilinear")
    group, draws = alone("affine")
    ours = apply_photometric(smooth, group, draws)
    for i in range(3, 12):
        theirs = torchvision.affine(
            smooth[i],
            angle=draws["affine.degrees"][i].item(),
            translate=[33 * draws[f"affine.shift_{axis}"][i].item() for axis in "xy"],
            scale=draws["affine.scale"][i].item(),
            shear=[draws[f"affine.shear_{axis}"][i].item() for axis in "xy"],
            interpolation=torchvision.InterpolationMode.BILINEAR,
        )
        difference = (ours[i] - theirs).abs()
        # torchvision shears after, Kornia before the rotation
        assert difference[:, 8:-8, 8:-8].max() < 0.08, i
    group, draws = alone("rotate", degrees=30)
    ours = apply_photometric(smooth, group, draws)
    for i in range(3, 12):
        theirs = torchvision.rotate(
            smooth[i], -draws["rotate.degrees"][i].item(), torchvision.InterpolationMode.BILINEAR
        )
        assert (ours[i] - theirs).abs()[:, 8:-8, 8:-8].max() < 1e-3, i


def test_noise_is_normal_of_the_drawn_width_and_the_same_again() -> None:
    group, draws = alone("noise")
    grey = torch.full((64, 3, 40, 40), 0.5)
    noise = apply_photometric(grey, group, draws) - grey
    measured = noise.flatten(1).std(dim=1)
    assert ((measured / draws["noise.std"]) - 1).abs().max() < 0.06
    scaled = (noise / draws["noise.std"][:, None, None, None]).flatten()
    # the kurtosis of a normal distribution
    assert abs((scaled**4).mean() - 3) < 0.1 and abs(scaled.mean()) < 0.01
    assert torch.equal(apply_photometric(grey, group, draws) - grey, noise)
    assert torch.corrcoef(noise.flatten(1)).fill_diagonal_(0).abs().max() < 0.08


def test_a_cutout_covers_its_share_and_lies_inside() -> None:
    group, draws = alone("cutout", value=0.25)
    x = torch.ones(64, 3, 100, 100)
    out = apply_photometric(x, group, draws)
    top, left, bottom, right = draws["cutout.box"].unbind(dim=1)
    share = (out == 0.25).double().mean(dim=(1, 2, 3))
    assert torch.equal(out == 1, out != 0.25)
    torch.testing.assert_close(share, ((bottom - top) * (right - left)).double(), atol=0.02, rtol=0)
    assert draws["cutout.box"].min() >= 0 and draws["cutout.box"].max() <= 1 + 1e-6


def test_channels_are_dropped_one_by_one_equally_often() -> None:
    group, draws = alone("channel_drop", num=2)
    out = apply_photometric(images(64).clamp(min=0.1), group, draws)
    kept = (out > 0).flatten(2).any(dim=2)
    assert torch.equal(kept, draws["channel_drop.keep"])
    assert (kept.sum(dim=1) == 1).all() and kept.sum(dim=0).min() >= 10


def test_sobel_finds_an_edge_and_nothing_else() -> None:
    group, draws = alone("sobel")
    x = torch.zeros(64, 3, 20, 20)
    x[:, :, :, 10:] = 1
    out = apply_photometric(x, group, draws)
    assert out[:, :, :, 9:11].min() > 0.4 and out[:, :, :, :8].max() < 0.01


def test_every_op_leaves_an_image_alone_when_its_draw_says_no_and_stays_in_range() -> None:
    for op in ("rotate", "affine", "channel_drop", "noise", "cutout", "sobel"):
        group = CropGroup.model_validate({op: {"p": 0.5}})
        x, draws = images(64), draws_of(group, 64)
        out, applied = apply_photometric(x, group, draws), draws[f"{op}.apply"]
        assert 16 < applied.sum() < 48
        assert torch.equal(out[~applied], x[~applied])
        assert out.min() >= 0 and out.max() <= 1


def test_no_op_reads_a_value_back() -> None:
    out = apply_photometric(
        torch.empty(8, 3, 32, 32, device="meta"), EVERY_OP, draws_of(EVERY_OP, 8, device="meta")
    )
    assert out.shape == (8, 3, 32, 32)


def test_the_frames_of_a_clip_share_their_draws() -> None:
    group = CropGroup.model_validate(ALL.model_dump() | EVERY_OP.model_dump(exclude_none=True))
    x, draws = images(8), draws_of(group, 8)
    clips = x[:, None].expand(-1, 3, -1, -1, -1)
    out = apply_photometric(clips, group, draws)
    assert torch.equal(out[:, 0], out[:, 1]) and torch.equal(out[:, 0], out[:, 2])
    torch.testing.assert_close(out[:, 0], apply_photometric(x, group, draws), atol=1e-6, rtol=0)
