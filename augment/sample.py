"""Draws: from a recipe and a sample's key to the numbers that say what happens to its pixels."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from augment.recipe import ColorJitter, CropGroup
from augment.rng import uniform

CROP_TRIES = 10  # as torchvision's RandomResizedCrop
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
    """Draw a random resized crop and a flip for each image, with the semantics of torchvision's RandomResizedCrop.

    Area uniform in `scale` and aspect uniform in log `ratio` (arXiv:1409.4842), tried ten times until the box fits;
    then the largest central crop whose aspect is allowed.

    Args:
        group: Recipe of the view.
        seed: The run's seed.
        epoch: (B,) int64.
        sample_id: (B,) int64.
        view: Index among all views of the sample, one for all rows or (B,) int64.
        image_height: (B,) int64, px.
        image_width: (B,) int64, px.
    """
    draws = uniform(2 * CROP_TRIES + 3, seed=seed, epoch=epoch, sample_id=sample_id, view=view, op="crop").double()
    for_area, for_ratio, for_place = draws.tensor_split((CROP_TRIES, 2 * CROP_TRIES), dim=1)

    area = (image_height * image_width)[:, None] * _between(group.scale, for_area)  # (B, tries)
    ratio = _between((math.log(group.ratio[0]), math.log(group.ratio[1])), for_ratio).exp()
    widths = (area * ratio).sqrt().round().long()
    heights = (area / ratio).sqrt().round().long()
    fits = (widths > 0) & (widths <= image_width[:, None]) & (heights > 0) & (heights <= image_height[:, None])

    first = fits.long().argmax(dim=1, keepdim=True)  # argmax takes the first of equals
    central_height, central_width = _central_crop(group, image_height, image_width)
    any_fits = fits.any(dim=1)
    height = torch.where(any_fits, heights.gather(1, first).squeeze(1), central_height)
    width = torch.where(any_fits, widths.gather(1, first).squeeze(1), central_width)

    free_rows, free_columns = image_height - height, image_width - width
    top = torch.where(any_fits, (for_place[:, 0] * (free_rows + 1)).long(), free_rows // 2)
    left = torch.where(any_fits, (for_place[:, 1] * (free_columns + 1)).long(), free_columns // 2)
    return CropDraws(top=top, left=left, height=height, width=width, flip=for_place[:, 2] < group.flip)


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
        For each change in the recipe, named by its field: `<op>.apply` (B,) bool, and its parameters, (B,) float32:
        `color_jitter.brightness`, `.contrast`, `.saturation` (factors), `.hue` (turns), `blur.sigma` (px),
        `solarize.threshold`; and `color_jitter.order` (B, 4) int64, indices into `JITTER_OPS`, first to last.
        On sample_id's device.
    """

    def draw(op: str, num: int) -> Tensor:
        return uniform(num, seed=seed, epoch=epoch, sample_id=sample_id, view=view, op=op)

    draws: dict[str, Tensor] = {}
    if group.color_jitter is not None:
        draws |= _jitter_draws(group.color_jitter, draw("color_jitter", 9))
    if group.greyscale is not None:
        draws["greyscale.apply"] = draw("greyscale", 1)[:, 0] < group.greyscale.p
    if group.blur is not None:
        u = draw("blur", 2)
        draws["blur.apply"] = u[:, 0] < group.blur.p
        draws["blur.sigma"] = _between(group.blur.sigma, u[:, 1])
    if group.solarize is not None:
        u = draw("solarize", 1)[:, 0]
        draws["solarize.apply"] = u < group.solarize.p
        draws["solarize.threshold"] = torch.full_like(u, group.solarize.threshold)
    return draws


def _jitter_draws(jitter: ColorJitter, u: Tensor) -> dict[str, Tensor]:
    """Turn nine uniforms a sample, (B, 9), into whether, how much of each change, and in which order."""
    draws = {"color_jitter.apply": u[:, 0] < jitter.p}
    for i, name in enumerate(JITTER_OPS[:3], start=1):
        strength = getattr(jitter, name)
        draws[f"color_jitter.{name}"] = _between((max(0.0, 1 - strength), 1 + strength), u[:, i])
    draws["color_jitter.hue"] = _between((-jitter.hue, jitter.hue), u[:, 4])
    draws["color_jitter.order"] = u[:, 5:].argsort(dim=1, stable=True)  # stable: ties fall alike on every device
    return draws


def _between(bounds: tuple[float, float], u: Tensor) -> Tensor:
    return bounds[0] + (bounds[1] - bounds[0]) * u


def _central_crop(group: CropGroup, height: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """Height and width of the largest box in the image whose aspect the recipe allows."""
    narrowest, widest = group.ratio
    crop_height = torch.minimum(height, (width / narrowest).round().long()).clamp(min=1)
    crop_width = torch.minimum(width, (height * widest).round().long()).clamp(min=1)
    return crop_height, crop_width
