"""The changes of a recipe executed on the CPU view by view, for the decode task and for training without a GPU."""

import math
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from torch import Tensor

from augment import colour_kernel
from augment.kornia_ops import apply_photometric, blur_taps
from augment.photometric import AFTER, BEFORE, blur_reach
from augment.recipe import CropGroup
from augment.sample import JITTER_OPS

_NONE = np.empty(0, np.int64), np.empty(0, np.float32)


def apply_on_cpu(crops: np.ndarray, group: CropGroup, draws: dict[str, Tensor], out: np.ndarray) -> None:
    """Change views as drawn.

    Equal to `augment.kornia_ops.apply_photometric` up to rounding; ops without a compiled form are executed there.

    Args:
        crops: (B, 3, S, S) uint8, or clips (B, T, 3, S, S), whose frames share their draws; left untouched.
        group: Recipe of the views.
        draws: `augment.sample.sample_photometric` of the same recipe, on the CPU.
        out: crops' shape, overwritten: uint8, or float32 in [0, 1].
    """
    changes = Changes(group, draws, crops.shape[-1])
    for index, (images, targets) in enumerate(zip(crops, out, strict=True)):
        changes.apply(index, images, targets)


class Changes:
    """The changes drawn for B views, to be applied one view at a time.

    Args:
        group: Recipe of the views.
        draws: `augment.sample.sample_photometric` of the same recipe, on the CPU.
        size: Side of the views, px.
    """

    def __init__(self, group: CropGroup, draws: dict[str, Tensor], size: int) -> None:
        self._group, self._draws, self._rows = group, draws, _rows(draws)
        self._flags = [f"{op}.apply" for op in group.changes()]
        self._before, self._after = ([f"{op}.apply" for op in ops if f"{op}.apply" in draws] for ops in (BEFORE, AFTER))
        self._jitter = _ordered_jitter(group, draws)
        # PyTorch's memory starts where a cache line does.
        self._levels, self._blurred = (torch.empty((3, size, size), dtype=torch.uint16).numpy() for _ in range(2))

    def apply(self, index: int, images: np.ndarray, out: np.ndarray) -> None:
        """Change a view (3, S, S) uint8, or the frames of one (T, 3, S, S), into `out`, which may be the same array."""
        drawn = self._rows[index]
        if out.dtype == np.uint8 and not any(drawn[flag] for flag in self._flags):
            if out is not images:
                out[...] = images
            return
        clip = images.ndim == 4
        for image, target in zip(images if clip else [images], out if clip else [out], strict=True):
            self._change(index, image, target)

    def _change(self, index: int, image: np.ndarray, out: np.ndarray) -> None:
        """Change one image (3, S, S) uint8."""
        drawn, levels = self._rows[index], self._levels
        if any(drawn[flag] for flag in self._before):
            image = self._by_kornia(index, torch.from_numpy(image) / 255, BEFORE).mul(255).round().byte().numpy()
        ops, amounts = (of_views[index] for of_views in self._jitter) if drawn.get("color_jitter.apply") else _NONE
        grey = drawn.get("greyscale.apply", False)
        colour_kernel.jitter(image, ops, amounts, grey, levels)
        if drawn.get("blur.apply", False):
            weights = _half_gaussian(drawn["blur.sigma"], blur_taps(levels.shape[-1]))
            colour_kernel.blur(levels, grey, weights, self._blurred)
            levels = self._blurred
        if drawn.get("solarize.apply", False):
            colour_kernel.solarise(levels.reshape(-1), _first_level(drawn["solarize.threshold"]))
        if any(drawn[flag] for flag in self._after):
            unit = np.empty(levels.shape, np.float32)
            colour_kernel.to_unit(levels.reshape(-1), unit.reshape(-1))
            changed = self._by_kornia(index, torch.from_numpy(unit), AFTER)
            out[...] = (changed.mul(255).round() if out.dtype == np.uint8 else changed).numpy()
        else:
            convert = colour_kernel.to_bytes if out.dtype == np.uint8 else colour_kernel.to_unit
            convert(levels.reshape(-1), out.reshape(-1))

    def _by_kornia(self, index: int, image: Tensor, ops: Collection[str]) -> Tensor:
        row = {name: value[index : index + 1] for name, value in self._draws.items()}
        return apply_photometric(image[None], self._group, row, ops)[0]


def _ordered_jitter(group: CropGroup, draws: dict[str, Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Each view's jitter, (B, 4) int64 in its order and how much of each, float32; nothing for those that get none."""
    if group.color_jitter is None:
        return np.empty((0, 0), np.int64), np.empty((0, 0), np.float32)
    order = draws["color_jitter.order"]
    used = torch.tensor([getattr(group.color_jitter, name) > 0 for name in JITTER_OPS])
    amounts = torch.stack([draws[f"color_jitter.{name}"] for name in JITTER_OPS], dim=1).gather(1, order)
    return torch.where(used[order], order, colour_kernel.NOTHING).numpy(), amounts.numpy()


def _rows(draws: dict[str, Tensor]) -> list[dict[str, Any]]:
    """The draws of each view as plain numbers: a view has more of them than there is time for in NumPy's."""
    columns = [value.tolist() for value in draws.values()]
    return [dict(zip(draws, row, strict=True)) for row in zip(*columns, strict=True)]


def _first_level(threshold: float) -> int:
    """The first that is not below a threshold in [0, 1]; less than a rounding error does not count."""
    return math.ceil(255 * colour_kernel.LEVEL * threshold - 1e-2)


def _half_gaussian(sigma: float, taps: int) -> np.ndarray:
    """The middle and one side of a blur's kernel, as far as its Gaussian reaches, in 65536ths."""
    reach = min(taps // 2, blur_reach(sigma))
    weights = [math.exp(-(place**2) / (2 * sigma**2)) for place in range(reach + 1)]
    whole = 2 * sum(weights) - weights[0]
    return np.array([min(round(65536 * weight / whole), 65535) for weight in weights], np.uint16)
