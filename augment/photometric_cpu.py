"""The changes of a recipe executed on the CPU view by view, for the decode task and for training without a GPU."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from augment import colour_kernel
from augment.kornia_ops import apply_photometric, blur_taps
from augment.photometric import AFTER, BEFORE, TAIL
from augment.recipe import CropGroup
from augment.sample import JITTER_OPS


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
        self._needs_kornia = any(getattr(group, op) is not None for op in (*BEFORE, *AFTER))
        self._work = np.empty((2, 3, size, size), np.float32)

    def apply(self, index: int, images: np.ndarray, out: np.ndarray) -> None:
        """Change a view (3, S, S) uint8, or the frames of one (T, 3, S, S), into `out`, which may be the same array."""
        drawn = self._rows[index]
        if out.dtype == np.uint8 and not any(drawn[f"{op}.apply"] for op in self._group.changes()):
            if out is not images:
                out[...] = images
            return
        row = {name: value[index : index + 1] for name, value in self._draws.items()} if self._needs_kornia else {}
        clip = images.ndim == 4
        for image, target in zip(images if clip else [images], out if clip else [out], strict=True):
            x = _change(image, self._group, drawn, row, self._work)
            if target.dtype == np.uint8:
                colour_kernel.to_bytes(x.reshape(-1), target.reshape(-1))
            else:
                target[...] = x


def _rows(draws: dict[str, Tensor]) -> list[dict[str, Any]]:
    """The draws of each view as plain numbers: a view has more of them than there is time for in NumPy's."""
    columns = [value.tolist() for value in draws.values()]
    return [dict(zip(draws, row, strict=True)) for row in zip(*columns, strict=True)]


def _change(
    image: np.ndarray, group: CropGroup, drawn: dict[str, Any], row: dict[str, Tensor], work: np.ndarray
) -> np.ndarray:
    """Change one image (3, S, S) uint8 into one of `work` (2, 3, S, S) float32; `row` holds its draws for Kornia."""
    x: np.ndarray
    x, spare = work
    if any(drawn.get(f"{op}.apply", False) for op in BEFORE):
        moved = apply_photometric(torch.from_numpy(image)[None] / 255, group, row, BEFORE)[0]
        image = moved.mul(255).round().to(torch.uint8).numpy()
    ops, amounts = _ordered_jitter(group, drawn)
    colour_kernel.jitter(image, ops, amounts, drawn.get("greyscale.apply", False), x)
    if drawn.get("blur.apply", False):
        colour_kernel.blur(x, _half_gaussian(drawn["blur.sigma"], blur_taps(x.shape[-1])), spare)
        x = spare
    if drawn.get("solarize.apply", False):
        colour_kernel.solarise(x.reshape(-1), np.float32(drawn["solarize.threshold"]))
    if any(drawn.get(f"{op}.apply", False) for op in AFTER):
        x = apply_photometric(torch.from_numpy(x)[None], group, row, AFTER)[0].numpy()
    return x


def _ordered_jitter(group: CropGroup, drawn: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The changes of the jitter that are applied, in their order, and how much of each."""
    if group.color_jitter is None or not drawn["color_jitter.apply"]:
        return np.empty(0, np.int64), np.empty(0, np.float32)
    ops = [op for op in drawn["color_jitter.order"] if getattr(group.color_jitter, JITTER_OPS[op]) > 0]
    amounts = [drawn[f"color_jitter.{JITTER_OPS[op]}"] for op in ops]
    return np.array(ops, np.int64), np.array(amounts, np.float32)


def _half_gaussian(sigma: float, taps: int) -> np.ndarray:
    """The middle and one side of a blur's kernel, as far as its Gaussian reaches."""
    reach = max(1, min(taps // 2, math.ceil(TAIL * sigma)))
    weights = [math.exp(-(place**2) / (2 * sigma**2)) for place in range(reach + 1)]
    whole = 2 * sum(weights) - weights[0]
    return np.array([weight / whole for weight in weights], np.float32)
