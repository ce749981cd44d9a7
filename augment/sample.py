"""Draws: from a recipe and a sample's key to the numbers that say what happens to its pixels."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from augment.column_draws import crop_bounds, crop_uniforms
from augment.kernels.crop import draw_boxes
from augment.ops import Affine, ColorJitter, Cutout
from augment.recipe import AnyViews, CropGroup
from augment.rng import state, uniform

JITTER_OPS = ("brightness", "contrast", "saturation", "hue")


@dataclass(frozen=True)
class CropDraws:
    """One crop for each of B images: box in pixels of the image and whether to mirror it.

    Attributes:
        top, left, height, width: (B,) int64; the box lies inside its image and is not empty.
        flip: (B,) bool.
    """

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    flip: Tensor

    def boxes(self) -> Iterator[tuple[int, int, int, int, bool]]:
        """Iterate over the images: top, left, height, width, flip."""
        columns = (self.top, self.left, self.height, self.width, self.flip)
        return zip(*(column.tolist() for column in columns), strict=True)


def sample_crops(
    group: CropGroup,
    *,
    seed: int,
    epoch: Tensor,
    sample_id: Tensor,
    view: int | Tensor,
    image_height: Tensor,
    image_width: Tensor,
) -> CropDraws:
    """Draw a random resized crop and a flip for each image, with the semantics of torchvision's
    RandomResizedCrop.

    Area uniform in `scale` and aspect uniform in log `ratio` (arXiv:1409.4842), tried ten times
    until the box fits; then the largest central crop whose aspect is allowed.

    Args:
        group: Recipe of the view.
        seed: The run's seed.
        epoch: (B,) int64, on the CPU, as all of these.
        sample_id: (B,) int64.
        view: Index among all views of the sample, one for all rows or (B,) int64.
        image_height: (B,) int64, px.
        image_width: (B,) int64, px.
    """
    u = crop_uniforms(
        seed=seed,
        epoch=epoch.numpy(),
        sample_id=sample_id.numpy(),
        view=view.numpy() if isinstance(view, Tensor) else view,
    )
    heights, widths = (np.ascontiguousarray(size.numpy()) for size in (image_height, image_width))
    boxes = draw_boxes(u, heights, widths, crop_bounds(group))
    top, left, height, width, flip = torch.from_numpy(boxes).unbind(dim=1)
    return CropDraws(top=top, left=left, height=height, width=width, flip=flip.bool())


def sample_photometric(
    group: CropGroup, *, seed: int, epoch: Tensor, sample_id: Tensor, view: int | Tensor
) -> dict[str, Tensor]:
    """Draw the colour changes of one view for each sample.

    Args:
        group: Recipe of the view.
        seed: The run's seed.
        epoch: (B,) int64.
        sample_id: (B,) int64.
        view: Index among all views of the sample, one for all rows or (B,) int64.

    Returns:
        For each change in the recipe, named by its field: `<op>.apply` (B,) bool, and its
            parameters, (B,) float32 if
        not said otherwise: `color_jitter.brightness`, `.contrast`, `.saturation` (factors), `.hue`
        (turns), `.order` (B, 4) int64, indices into `JITTER_OPS`, first to last; `blur.sigma` (px);
        `solarize.threshold`; `quarter_turns.turns` (int64); `rotate.degrees`; `affine.degrees`,
        `.shift_x`, `.shift_y` (sides), `.scale`, `.shear_x`, `.shear_y` (degrees);
        `channel_drop.keep` (B, 3) bool; `noise.std` and `.state` (int64, the key of its numbers);
        `cutout.box` (B, 4), top, left, bottom, right in sides. On sample_id's device.
    """

    def draw(op: str, num: int) -> Tensor:
        return uniform(num, seed=seed, epoch=epoch, sample_id=sample_id, view=view, op=op)

    draws: dict[str, Tensor] = {}
    for op, (num, parameters) in _PARAMETERS.items():
        if (settings := getattr(group, op)) is not None:
            u = draw(op, num)
            draws[f"{op}.apply"] = u[:, 0] < settings.p
            draws |= {f"{op}.{name}": value for name, value in parameters(settings, u).items()}
    if group.noise is not None:
        draws["noise.state"] = state(
            seed=seed, epoch=epoch, sample_id=sample_id, view=view, op="noise.values"
        )
    return draws


def _jitter(jitter: ColorJitter, u: Tensor) -> dict[str, Tensor]:
    """Draw how much of each change is applied, and in which order."""
    draws = {}
    for i, name in enumerate(JITTER_OPS[:3], start=1):
        strength = getattr(jitter, name)
        draws[name] = _between((max(0.0, 1 - strength), 1 + strength), u[:, i])
    draws["hue"] = _between((-jitter.hue, jitter.hue), u[:, 4])
    draws["order"] = u[:, 5:].argsort(dim=1, stable=True)  # stable: ties fall alike on every device
    return draws


def _affine(affine: Affine, u: Tensor) -> dict[str, Tensor]:
    spread = {
        "degrees": affine.degrees,
        "shift_x": affine.translate,
        "shift_y": affine.translate,
        "shear_x": affine.shear,
        "shear_y": affine.shear,
    }
    draws = {
        name: _between((-most, most), u[:, i])
        for i, (name, most) in enumerate(spread.items(), start=1)
    }
    return draws | {"scale": _between(affine.scale, u[:, 6])}


def _cutout(cutout: Cutout, u: Tensor) -> dict[str, Tensor]:
    """Draw a box in sides of the image; one longer than a side is cut to it."""
    area = _between(cutout.scale, u[:, 1])
    ratio = _between((math.log(cutout.ratio[0]), math.log(cutout.ratio[1])), u[:, 2]).exp()
    height = (area / ratio).sqrt().clamp(max=1)
    width = (area * ratio).sqrt().clamp(max=1)
    top = u[:, 3] * (1 - height)
    left = u[:, 4] * (1 - width)
    return {"box": torch.stack([top, left, top + height, left + width], dim=1)}


# Field of the recipe -> how many uniforms a sample its draw takes, and what it makes of those after
# the first, which decides whether the change is applied.
_PARAMETERS: dict[str, tuple[int, Callable[[Any, Tensor], dict[str, Tensor]]]] = {
    "quarter_turns": (2, lambda _, u: {"turns": (u[:, 1] * 4).long()}),
    "rotate": (
        2,
        lambda rotate, u: {"degrees": _between((-rotate.degrees, rotate.degrees), u[:, 1])},
    ),
    "affine": (7, _affine),
    "color_jitter": (9, _jitter),
    "greyscale": (1, lambda *_: {}),
    "blur": (2, lambda blur, u: {"sigma": _between(blur.sigma, u[:, 1])}),
    "solarize": (
        1,
        lambda solarize, u: {"threshold": torch.full_like(u[:, 0], solarize.threshold)},
    ),
    "channel_drop": (4, lambda drop, u: {"keep": u[:, 1:].argsort(dim=1, stable=True) >= drop.num}),
    "noise": (2, lambda noise, u: {"std": _between(noise.std, u[:, 1])}),
    "cutout": (5, _cutout),
    "sobel": (1, lambda *_: {}),
}


def _between(bounds: tuple[float, float], u: Tensor) -> Tensor:
    return bounds[0] + (bounds[1] - bounds[0]) * u


def row_keys(
    views: AnyViews, name: str, epoch: Tensor, sample_id: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return epoch, sample and view of each of a group's B * V rows, view by view of a sample."""
    shape = (len(sample_id), views.groups[name].count)  # (B, V)
    view = views.first_view(name) + torch.arange(shape[1], device=sample_id.device)
    epoch, sample_id, view = (
        key.expand(shape).flatten() for key in (epoch[:, None], sample_id[:, None], view)
    )
    return epoch, sample_id, view
