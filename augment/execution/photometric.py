"""The changes of a recipe fused for a device: batch by batch, no value read back, no graph break
for torch.compile.

Brightness, contrast and saturation are one form, `f * x + (1 - f) * base` clipped, with black, the
mean grey or the pixel's own grey as its base. So the three, in any order, are three identical steps
for the whole batch, and the hue, which may stand before, between or after them, splits them in two
runs of which each image takes its part.
"""

from collections.abc import Collection

import torch
from torch import Tensor
from torch.nn import functional

from augment.kernels.colour import LUMA, blur_reach
from augment.ops import ColorJitter, GaussianBlur
from augment.recipe import CropGroup
from augment.sample import JITTER_OPS

BEFORE = ("quarter_turns", "rotate", "affine")  # executed by Kornia, before and after what is fused
AFTER = ("channel_drop", "noise", "cutout", "sobel")
_HUE = JITTER_OPS.index("hue")


def apply_fused(x: Tensor, group: CropGroup, draws: dict[str, Tensor]) -> Tensor:
    """Change a batch of views as drawn.

    Equal to `augment.kornia_ops.apply_photometric` up to rounding; see there. Each step is computed
    in float32 and kept in x's type.

    Args:
        x: (B, 3, H, W) float32 or bfloat16 in [0, 1], or clips (B, T, 3, H, W), whose frames share
            their draws.
        group: Recipe of the views.
        draws: `augment.sample.sample_photometric` of the same recipe, on x's device.

    Returns:
        x's shape and type, in [0, 1].
    """
    if x.ndim == 5:
        frames = x.shape[1]
        repeated = {name: value.repeat_interleave(frames, dim=0) for name, value in draws.items()}
        return apply_fused(x.flatten(0, 1), group, repeated).reshape(x.shape)
    kept = x.dtype
    if any(getattr(group, op) is not None for op in BEFORE):
        x = _by_kornia(x.float(), group, draws, BEFORE).to(kept)
    if group.color_jitter is not None or group.greyscale is not None:
        x = _colours(x.float(), group, draws).to(kept)
    if group.blur is not None:
        x = _blur(x, group.blur, draws["blur.apply"], draws["blur.sigma"])
    if group.solarize is not None:
        inverted = draws["solarize.apply"][:, None, None, None] & (
            x >= _per_image(draws["solarize.threshold"])
        )
        x = torch.where(inverted, 1 - x, x)
    if any(getattr(group, op) is not None for op in AFTER):
        x = _by_kornia(x.float(), group, draws, AFTER).to(kept)
    return x


def _by_kornia(
    x: Tensor, group: CropGroup, draws: dict[str, Tensor], ops: Collection[str]
) -> Tensor:
    from augment.execution.kornia_ops import apply_photometric  # here, as few recipes need it

    return apply_photometric(x, group, draws, ops)


def _colours(x: Tensor, group: CropGroup, draws: dict[str, Tensor]) -> Tensor:
    """Apply the jitter, then the greyscale, to (B, 3, H, W) float32."""
    if group.color_jitter is not None:
        jitter = {name: draws[f"color_jitter.{name}"] for name in ("apply", "order", *JITTER_OPS)}
        x = _jitter(x, group.color_jitter, jitter)
    if group.greyscale is not None:
        x = torch.where(draws["greyscale.apply"][:, None, None, None], _luma(x), x)
    return x


def _jitter(x: Tensor, settings: ColorJitter, draws: dict[str, Tensor]) -> Tensor:
    """Apply the changes before the hue's place in each image's order, the hue, then the others."""
    # (B,), (B, 4)
    chosen = draws["apply"]
    order = draws["order"]
    place = (order == _HUE).long().argmax(dim=1)  # (B,) of the hue
    has_hue = settings.hue > 0
    if has_hue:
        x = _affine_run(
            x, settings, draws, [chosen & (position < place) for position in range(_HUE)]
        )
        x = _shift_hue(x, torch.where(chosen, draws["hue"], torch.zeros_like(draws["hue"])))
        return _affine_run(
            x,
            settings,
            draws,
            [chosen & (position > place) for position in range(1, _HUE + 1)],
            first=1,
        )
    return _affine_run(x, settings, draws, [chosen] * len(JITTER_OPS))


def _affine_run(
    x: Tensor,
    settings: ColorJitter,
    draws: dict[str, Tensor],
    takes_part: list[Tensor],
    first: int = 0,
) -> Tensor:
    """Apply brightness, contrast and saturation from place `first` on, where an image has them."""
    for position, part in enumerate(takes_part, start=first):
        op = draws["order"][:, position]  # (B,)
        factor = torch.ones_like(draws["brightness"])
        for index, name in enumerate(JITTER_OPS[:_HUE]):
            if getattr(settings, name) > 0:
                factor = torch.where(part & (op == index), draws[name], factor)
        rest = 1 - factor  # 0 for images that are left as they are
        mean_part = torch.where(op == JITTER_OPS.index("contrast"), rest, torch.zeros_like(rest))
        grey_part = torch.where(op == JITTER_OPS.index("saturation"), rest, torch.zeros_like(rest))
        grey = _luma(x)
        base = _per_image(grey_part) * grey + _per_image(mean_part) * grey.mean(
            dim=(1, 2, 3), keepdim=True
        )
        x = (_per_image(factor) * x + base).clamp(0, 1)
    return x


def _shift_hue(x: Tensor, turns: Tensor) -> Tensor:
    """Turn the colour circle of HSV: value and chroma stay, so RGB is had without going through
    saturation."""
    red, green, blue = x.unbind(dim=1)
    value = x.amax(dim=1)
    low = x.amin(dim=1)
    chroma = value - low
    safe = torch.where(chroma > 0, chroma, torch.ones_like(chroma))
    sextant = torch.where(
        red == value,
        (green - blue) / safe,
        torch.where(green == value, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sextant = sextant + 6 * turns[:, None, None]
    channels = []
    for offset in (5, 3, 1):  # how far each channel's ramp lies along the circle
        place = (sextant + offset).remainder(6)
        channels.append(value - chroma * torch.minimum(place, 4 - place).clamp(0, 1))
    return torch.stack(channels, dim=1)


def _blur(x: Tensor, settings: GaussianBlur, chosen: Tensor, sigma: Tensor) -> Tensor:
    """Make a blur for views of this side; small images are not blurred."""
    taps = min(settings.taps(x.shape[-1]), 2 * blur_reach(settings.sigma[1]) + 1)
    offsets = torch.arange(taps, device=x.device) - taps // 2
    weights = torch.exp(-(offsets**2) / (2 * sigma[:, None] ** 2))  # (B, taps)
    weights = torch.where(
        chosen[:, None], weights / weights.sum(dim=1, keepdim=True), (offsets == 0).float()
    )
    down, across = (
        _banded(weights[:, taps // 2 :], side).to(x.dtype)[:, None] for side in x.shape[-2:]
    )
    blurred: Tensor = (down @ x @ across.mT).clamp(0, 1)
    return blurred


def _banded(half: Tensor, side: int) -> Tensor:
    """Make the matrices that convolve rows of `side` values, reflected at both ends.

    A device multiplies by them far sooner than it filters planes one by one.

    Args:
        half: (B, n) weights of distances 0 to n - 1.
        side: At least n.

    Returns:
        (B, side, side), of a result's place and a value's.
    """
    half, none = functional.pad(half, (0, 1)), half.shape[1]  # 0 from the distance `none` on
    place = torch.arange(side, device=half.device)
    result = place[:, None]
    value = place[None, :]
    last = side - 1
    straight = (result - value).abs()
    low = torch.where(value > 0, result + value, none)  # an end is not its own reflection
    high = torch.where(value < last, 2 * last - result - value, none)
    straight, low, high = (half[:, distance.clamp(max=none)] for distance in (straight, low, high))
    return straight + low + high


def _luma(x: Tensor) -> Tensor:
    red = x[:, 0:1]
    green = x[:, 1:2]
    blue = x[:, 2:3]
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue  # (B, 1, H, W)


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]
