"""photometric and photometric_cpu: other executions of the same recipe, held to Kornia's."""

from contextlib import AbstractContextManager

import numpy as np
import pytest
import torch
from torch import Tensor

from augment.execution.kornia_ops import apply_photometric
from augment.execution.photometric import apply_fused
from augment.execution.photometric_cpu import apply_on_cpu
from augment.ops import (
    Affine,
    ColorJitter,
    Cutout,
    GaussianBlur,
    GaussianNoise,
    Greyscale,
    Sobel,
    Solarize,
)
from augment.presets import byol_views, simclr_views
from augment.recipe import CropGroup
from augment.sample import sample_photometric
from models.clustering.swav import SwAV
from models.contrastive.instance_discrimination import InstanceDiscrimination

SIDE = 96
ONE_OP = {
    "brightness": CropGroup(color_jitter=ColorJitter(p=1, contrast=0, saturation=0, hue=0)),
    "contrast": CropGroup(color_jitter=ColorJitter(p=1, brightness=0, saturation=0, hue=0)),
    "saturation": CropGroup(color_jitter=ColorJitter(p=1, brightness=0, contrast=0, hue=0)),
    "hue": CropGroup(
        color_jitter=ColorJitter(p=1, brightness=0, contrast=0, saturation=0, hue=0.5)
    ),
    "greyscale": CropGroup(greyscale=Greyscale(p=0.5)),
    "blur": CropGroup(blur=GaussianBlur(p=0.5)),
    "solarize": CropGroup(solarize=Solarize(p=0.5, threshold=0.4)),
    "others": CropGroup(
        affine=Affine(), noise=GaussianNoise(), cutout=Cutout(), sobel=Sobel(p=0.1)
    ),
}
RECIPES = {
    "simclr": simclr_views(SIDE).groups["global_crops"],
    "instance_discrimination": InstanceDiscrimination.default_views(SIDE).groups["global_crops"],
    "byol": byol_views(SIDE).groups["global_crops_2"],
    "swav": SwAV.default_views(SIDE).groups["local_crops"],
}


@pytest.fixture(scope="module")
def crops(photographs: list[np.ndarray]) -> Tensor:
    """(48, 3, SIDE, SIDE) uint8: pieces of photographs, then black, white and grey."""
    rng = np.random.default_rng(0)
    pieces = []
    for number in range(45):
        photograph = photographs[number % len(photographs)]
        top, left = (rng.integers(0, length - SIDE) for length in photograph.shape[:2])
        pieces.append(photograph[top : top + SIDE, left : left + SIDE])
    flat = [np.full((SIDE, SIDE, 3), level, np.uint8) for level in (0, 255, 128)]
    return torch.from_numpy(np.stack(pieces + flat)).permute(0, 3, 1, 2).contiguous()


def draws_of(group: CropGroup, num: int, device: str = "cpu") -> dict[str, Tensor]:
    samples = torch.arange(num, device=device)
    return sample_photometric(
        group, seed=3, epoch=torch.zeros_like(samples), sample_id=samples, view=0
    )


def levels(ours: Tensor, reference: Tensor) -> Tensor:
    """Differences in grey levels; a value next to the threshold of solarisation may fall on its
    other side."""
    return (ours.float() - reference).abs() * 255


def on_cpu(crops: Tensor, group: CropGroup, draws: dict[str, Tensor], dtype: type) -> Tensor:
    """The result of the compiled execution in grey levels of 1."""
    out = np.empty(crops.shape, dtype)
    apply_on_cpu(crops.numpy(), group, draws, out)
    return torch.from_numpy(out) / (255 if dtype is np.uint8 else 1)


@pytest.mark.parametrize("op", ONE_OP)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 2), (torch.bfloat16, 4)])
def test_each_fused_op_equals_kornias(
    crops: Tensor, op: str, dtype: torch.dtype, limit: float
) -> None:
    group, x = ONE_OP[op], crops / 255
    draws = draws_of(group, len(x))
    if dtype == torch.bfloat16 and op == "solarize":
        x = x.to(dtype).float()  # the same values on either side of the threshold
    ours, reference = apply_fused(x.to(dtype), group, draws), apply_photometric(x, group, draws)
    assert ours.dtype == dtype
    assert levels(ours, reference).max() <= limit


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(("dtype", "factor"), [(torch.float32, 1), (torch.bfloat16, 2)])
def test_a_fused_recipe_equals_kornias(
    crops: Tensor, recipe: str, dtype: torch.dtype, factor: int
) -> None:
    group, x = RECIPES[recipe], crops / 255
    draws = draws_of(group, len(x))
    difference = levels(apply_fused(x.to(dtype), group, draws), apply_photometric(x, group, draws))
    assert difference.mean() <= factor
    assert (difference <= 4 * factor).double().mean() >= 0.999


def test_a_fused_recipe_reads_no_value_back() -> None:
    group = RECIPES["byol"]
    x = torch.empty(8, 3, SIDE, SIDE, device="meta")
    assert apply_fused(x, group, draws_of(group, 8, device="meta")).shape == x.shape


def test_a_fused_recipe_compiles_in_one_graph(crops: Tensor) -> None:
    group, x = RECIPES["byol"], crops[:8] / 255
    draws = draws_of(group, 8)
    compiled = torch.compile(apply_fused, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        compiled(x, group, draws), apply_fused(x, group, draws), atol=1e-5, rtol=0
    )


@pytest.mark.gpu
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(("dtype", "factor"), [(torch.float32, 1), (torch.bfloat16, 2)])
def test_a_fused_recipe_on_cuda_equals_kornias_and_never_waits(
    crops: Tensor,
    recipe: str,
    dtype: torch.dtype,
    factor: int,
    never_waits: AbstractContextManager[None],
) -> None:
    group, x = RECIPES[recipe], (crops / 255).cuda().to(dtype)
    with never_waits:
        ours = apply_fused(x, group, draws_of(group, len(x), device="cuda"))
    difference = levels(ours.cpu(), apply_photometric(crops / 255, group, draws_of(group, len(x))))
    assert difference.mean() <= factor
    assert (difference <= 4 * factor).double().mean() >= 0.999


@pytest.mark.gpu
def test_a_fused_recipe_compiles_on_cuda_in_one_graph(crops: Tensor) -> None:
    group, x = RECIPES["byol"], (crops / 255).cuda()
    draws = draws_of(group, len(x), device="cuda")
    compiled = torch.compile(apply_fused, fullgraph=True)
    different = levels(compiled(x, group, draws), apply_fused(x, group, draws)) > 1
    assert different.double().mean() < 1e-3  # values beside the threshold of the solarisation


def test_the_frames_of_a_clip_share_their_draws(crops: Tensor) -> None:
    group, x = RECIPES["simclr"], crops[:6] / 255
    draws = draws_of(group, 6)
    out = apply_fused(x[:, None].expand(-1, 4, -1, -1, -1), group, draws)
    assert out.shape == (6, 4, 3, SIDE, SIDE)
    torch.testing.assert_close(out[:, 3], apply_fused(x, group, draws), atol=1e-6, rtol=0)


@pytest.mark.parametrize("op", ONE_OP)
@pytest.mark.parametrize(("dtype", "limit"), [(np.float32, 2), (np.uint8, 4)])
def test_each_op_on_the_cpu_equals_kornias(
    crops: Tensor, op: str, dtype: type, limit: float
) -> None:
    group = ONE_OP[op]
    draws = draws_of(group, len(crops))
    assert (
        levels(
            on_cpu(crops, group, draws, dtype), apply_photometric(crops / 255, group, draws)
        ).max()
        <= limit
    )


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(("dtype", "factor"), [(np.float32, 1), (np.uint8, 2)])
def test_a_recipe_on_the_cpu_equals_kornias(
    crops: Tensor, recipe: str, dtype: type, factor: int
) -> None:
    group = RECIPES[recipe]
    draws = draws_of(group, len(crops))
    difference = levels(
        on_cpu(crops, group, draws, dtype), apply_photometric(crops / 255, group, draws)
    )
    assert difference.mean() <= factor
    assert (difference <= 4 * factor).double().mean() >= 0.999


@pytest.mark.parametrize("op", ["brightness", "contrast", "saturation"])
def test_the_strongest_jitter_on_the_cpu_equals_kornias(crops: Tensor, op: str) -> None:
    none = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    group = CropGroup(color_jitter=ColorJitter(p=1, **{**none, op: 7}))
    draws = draws_of(group, len(crops))
    assert draws[f"color_jitter.{op}"].max() > 7
    assert (
        levels(
            on_cpu(crops, group, draws, np.uint8), apply_photometric(crops / 255, group, draws)
        ).max()
        <= 2
    )


def test_a_jitter_stronger_than_the_cpu_can_compute_is_refused() -> None:
    with pytest.raises(ValueError, match="less than or equal to 7"):
        ColorJitter(brightness=7.1)


@pytest.mark.parametrize("position", range(4))
def test_the_contrast_on_the_cpu_sees_the_mean_of_what_comes_before_it(
    crops: Tensor, position: int
) -> None:
    group = CropGroup(color_jitter=ColorJitter(p=1))
    draws = draws_of(group, len(crops))
    order = torch.tensor([0, 2, 3])  # all but the contrast
    draws["color_jitter.order"] = torch.cat(
        [order[:position], torch.tensor([1]), order[position:]]
    ).repeat(len(crops), 1)
    difference = levels(
        on_cpu(crops, group, draws, np.uint8), apply_photometric(crops / 255, group, draws)
    )
    assert difference.mean() <= 0.5
    assert (difference <= 2).double().mean() >= 0.999


@pytest.mark.parametrize("side", [5, 33, 70])
def test_a_recipe_on_the_cpu_equals_kornias_at_every_side(crops: Tensor, side: int) -> None:
    group, cut = RECIPES["byol"], crops[..., :side, :side].contiguous()
    draws = draws_of(group, len(cut))
    difference = levels(
        on_cpu(cut, group, draws, np.uint8), apply_photometric(cut / 255, group, draws)
    )
    assert difference.mean() <= 1
    assert (difference <= 4).double().mean() >= 0.999


def test_a_blur_wider_than_the_unrolled_code_equals_kornias(crops: Tensor) -> None:
    # 29 taps
    group, large = (
        CropGroup(blur=GaussianBlur(p=1, sigma=(3, 5))),
        crops[:6].repeat(1, 1, 3, 3),
    )
    draws = draws_of(group, len(large))
    difference = levels(
        on_cpu(large, group, draws, np.uint8), apply_photometric(large / 255, group, draws)
    )
    assert difference.max() <= 4


def test_views_are_changed_where_they_lie_as_elsewhere(crops: Tensor) -> None:
    group = RECIPES["byol"]
    draws, inplace = draws_of(group, len(crops)), crops.numpy().copy()
    apply_on_cpu(inplace, group, draws, inplace)
    expected = np.empty(crops.shape, np.uint8)
    apply_on_cpu(crops.numpy(), group, draws, expected)
    assert np.array_equal(inplace, expected)


@pytest.mark.parametrize("side", [8, 40, 64, 70])
@pytest.mark.parametrize(("dtype", "limit"), [(np.float32, 2), (np.uint8, 4)])
def test_a_blur_on_the_cpu_equals_kornias_at_every_side(
    crops: Tensor, side: int, dtype: type, limit: float
) -> None:
    group, cut = (
        CropGroup(blur=GaussianBlur(p=1, sigma=(0.1, 4))),
        crops[..., :side, :side].contiguous(),
    )
    draws = draws_of(group, len(cut))
    assert (
        levels(on_cpu(cut, group, draws, dtype), apply_photometric(cut / 255, group, draws)).max()
        <= limit
    )


def test_the_frames_of_a_clip_share_their_draws_on_the_cpu(crops: Tensor) -> None:
    group, clips = RECIPES["byol"], crops[:6, None].repeat(1, 4, 1, 1, 1)
    draws = draws_of(group, 6)
    out = on_cpu(clips, group, draws, np.uint8)
    assert torch.equal(out[:, 3], on_cpu(crops[:6], group, draws, np.uint8))
