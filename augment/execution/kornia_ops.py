"""The changes of a recipe, executed with Kornia's functional operators and this project's draws."""

import math
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import torch
from kornia.color import rgb_to_grayscale
from kornia.enhance import (
    adjust_brightness_accumulative,
    adjust_contrast_with_mean_subtraction,
    adjust_hue,
    adjust_saturation_with_gray_subtraction,
    solarize,
)
from kornia.filters import filter2d_separable, get_gaussian_kernel1d, sobel
from kornia.geometry.transform import get_affine_matrix2d, warp_affine
from torch import Tensor

from augment.ops import ColorJitter, Cutout, GaussianBlur
from augment.recipe import CropGroup
from augment.rng import normal_of
from augment.sample import JITTER_OPS

# A batch of images and one value of each parameter per image, to the changed images.
Operator = Callable[..., Tensor]


def apply_photometric(
    x: Tensor, group: CropGroup, draws: dict[str, Tensor], only: Collection[str] | None = None
) -> Tensor:
    """Change a batch of views as drawn, one operator of Kornia after the other: the reference of
    all executions.

    Images whose draw says no are returned bit for bit. On CUDA nothing waits for the device.

    Args:
        x: (B, 3, H, W) float32 in [0, 1], or clips (B, T, 3, H, W), whose frames share their draws;
            left untouched.
        group: Recipe of the views.
        draws: `augment.sample.sample_photometric` of the same recipe, on x's device.
        only: The changes to make, by their field in the recipe; None makes all of them.

    Returns:
        x's shape, float32 in [0, 1].
    """
    if x.ndim == 5:
        frames = x.shape[1]
        repeated = {name: value.repeat_interleave(frames, dim=0) for name, value in draws.items()}
        return apply_photometric(x.flatten(0, 1), group, repeated, only).reshape(x.shape)
    x = x.clone() if x.device.type == "cpu" else x  # only _on_chosen writes in place
    for op, (make, names) in _OPERATORS.items():
        settings = getattr(group, op)
        if settings is not None and (only is None or op in only):
            parameters = [draws[f"{op}.{name}"] for name in names]
            x = _where(draws[f"{op}.apply"], make(settings), x, *parameters)
    return x


def _where(chosen: Tensor, operator: Operator, x: Tensor, *parameters: Tensor) -> Tensor:
    """Apply an operator to the chosen images, chosen (B,) bool; parameters have one row an
    image."""
    return (_on_chosen if x.device.type == "cpu" else _on_all)(chosen, operator, x, *parameters)


def _on_all(chosen: Tensor, operator: Operator, x: Tensor, *parameters: Tensor) -> Tensor:
    """Compute every image and take the chosen ones: how many those are is not known without waiting
    for the device."""
    return torch.where(chosen[:, None, None, None], operator(x, *parameters), x)


def _on_chosen(chosen: Tensor, operator: Operator, x: Tensor, *parameters: Tensor) -> Tensor:
    """Compute the chosen images only and write them into x."""
    rows = chosen.nonzero().squeeze(1)
    if len(rows) == 0:
        return x
    return x.index_copy_(0, rows, operator(x[rows], *(parameter[rows] for parameter in parameters)))


def _color_jitter(jitter: ColorJitter) -> Operator:
    """Make the operator that applies the changes of torchvision's ColorJitter, each image in its
    own order."""
    changes = [i for i, name in enumerate(JITTER_OPS) if getattr(jitter, name) > 0]

    def apply(x: Tensor, order: Tensor, *amounts: Tensor) -> Tensor:
        # Position by position, the images that have the same change there take it together: on the
        # CPU each image is computed once per change. Measured for 512 at 32 px on two cores: 55 ms,
        # grouped by whole order 110 ms.
        for position in range(len(JITTER_OPS)):
            for i in changes:
                x = _where(order[:, position] == i, _JITTER[i], x, amounts[i])
        return x

    return apply


def _shift_hue(x: Tensor, turns: Tensor) -> Tensor:
    return adjust_hue(x, turns * (2 * math.pi))


_JITTER: tuple[Operator, ...] = (
    adjust_brightness_accumulative,
    adjust_contrast_with_mean_subtraction,
    adjust_saturation_with_gray_subtraction,
    _shift_hue,
)


def _greyscale(x: Tensor) -> Tensor:
    return rgb_to_grayscale(x).expand_as(x)


def _gaussian_blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Blur each image by its own sigma (px), (B,); the kernel is a tenth of the side, odd
    (arXiv:2002.05709, A)."""
    size = GaussianBlur.taps(x.shape[-1])
    kernel = get_gaussian_kernel1d(size, sigma[:, None])  # (B, size)
    # kornia.filters.gaussian_blur2d is these two steps and a check that sigma is positive, which
    # waits for the device.
    return filter2d_separable(x, kernel, kernel)


def _turn(x: Tensor, turns: Tensor) -> Tensor:
    """Turn by quarters, counter-clockwise."""
    for quarter in (1, 2, 3):
        x = _where(turns == quarter, partial(torch.rot90, k=quarter, dims=(2, 3)), x)
    return x


def _rotate(x: Tensor, degrees: Tensor) -> Tensor:
    zero = torch.zeros_like(degrees)
    return _affine(x, degrees, zero, zero, torch.ones_like(degrees), zero, zero)


def _affine(x: Tensor, degrees: Tensor, *amounts: Tensor) -> Tensor:
    """Rotate, shift (sides), zoom and shear (degrees) about the centre."""
    shift_x, shift_y, scale, shear_x, shear_y = amounts
    height, width = x.shape[-2:]
    # Filled on the device: a tensor made of Python numbers would be a copy to it, which waits.
    centre = torch.stack(
        [torch.full_like(degrees, (width - 1) / 2), torch.full_like(degrees, (height - 1) / 2)],
        dim=1,
    )
    matrix = get_affine_matrix2d(
        torch.stack([shift_x * width, shift_y * height], dim=1),
        centre,
        torch.stack([scale, scale], dim=1),
        degrees,
        torch.deg2rad(shear_x),
        torch.deg2rad(shear_y),
    )
    return warp_affine(x, matrix[:, :2], (height, width)).clamp(0, 1)


def _keep_channels(x: Tensor, keep: Tensor) -> Tensor:
    return x * keep[:, :, None, None]


def _add_noise(x: Tensor, std: Tensor, state: Tensor) -> Tensor:
    """Add keyed normal numbers, so that a view can be replayed."""
    numbers = normal_of(state, x[0].numel()).reshape(x.shape)
    return (x + std[:, None, None, None] * numbers).clamp(0, 1)


def _cut_out(cutout: Cutout) -> Operator:
    def apply(x: Tensor, box: Tensor) -> Tensor:
        rows = (torch.arange(x.shape[-2], device=x.device) + 0.5) / x.shape[-2]
        columns = (torch.arange(x.shape[-1], device=x.device) + 0.5) / x.shape[-1]
        top, left, bottom, right = box.unsqueeze(2).unbind(dim=1)  # (B, 1) each
        inside_rows = (rows >= top) & (rows < bottom)
        inside_columns = (columns >= left) & (columns < right)
        inside = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
        return x.masked_fill(inside, cutout.value)

    return apply


def _always(operator: Operator) -> Callable[[Any], Operator]:
    """Make an operator that needs nothing of the recipe but its draws."""
    return lambda _: operator


# Field of the recipe -> how its operator is made of the settings, and the draws it takes; in the
# order of application.
_OPERATORS: dict[str, tuple[Callable[[Any], Operator], tuple[str, ...]]] = {
    "quarter_turns": (_always(_turn), ("turns",)),
    "rotate": (_always(_rotate), ("degrees",)),
    "affine": (_always(_affine), ("degrees", "shift_x", "shift_y", "scale", "shear_x", "shear_y")),
    "color_jitter": (_color_jitter, ("order", *JITTER_OPS)),
    "greyscale": (_always(_greyscale), ()),
    "blur": (_always(_gaussian_blur), ("sigma",)),
    "solarize": (_always(solarize), ("threshold",)),
    "channel_drop": (_always(_keep_channels), ("keep",)),
    "noise": (_always(_add_noise), ("std", "state")),
    "cutout": (_cut_out, ("box",)),
    "sobel": (_always(sobel), ()),
}
