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
    columns = {name: value.numpy() for name, value in draws.items()}
    x = np.empty(crops.shape[-3:], np.float32)
    for index in range(len(crops)):
        drawn = {name: column[index] for name, column in columns.items()}
        row = {name: value[index : index + 1] for name, value in draws.items()}
        frames = zip(crops[index : index + 1], out[index : index + 1], strict=True)
        for frame, target in zip(crops[index], out[index], strict=True) if crops.ndim == 5 else frames:
            _change(frame, group, drawn, row, x)
            if target.dtype == np.uint8:
                colour_kernel.to_bytes(x.reshape(-1), target.reshape(-1))
            else:
                target[...] = x


def _change(image: np.ndarray, group: CropGroup, drawn: dict[str, Any], row: dict[str, Tensor], x: np.ndarray) -> None:
    """Change one image (3, S, S) uint8 into x, float32."""
    image = _through_kornia(image, group, row, x)
    ops, amounts = _ordered_jitter(group, drawn)
    colour_kernel.jitter(image, ops, amounts, bool(drawn.get("greyscale.apply", False)), x)
    if drawn.get("blur.apply", False):
        colour_kernel.blur(x, _half_gaussian(float(drawn["blur.sigma"]), blur_taps(x.shape[-1])))
    if drawn.get("solarize.apply", False):
        colour_kernel.solarise(x.reshape(-1), drawn["solarize.threshold"])
    if any(drawn.get(f"{op}.apply", False) for op in AFTER):
        x[...] = apply_photometric(torch.from_numpy(x)[None], group, row, AFTER)[0].numpy()


def _through_kornia(image: np.ndarray, group: CropGroup, row: dict[str, Tensor], x: np.ndarray) -> np.ndarray:
    """The changes of place, which come first; rounded to grey levels where one is applied."""
    if not any(f"{op}.apply" in row and bool(row[f"{op}.apply"][0]) for op in BEFORE):
        return image
    moved = apply_photometric(torch.from_numpy(image)[None] / 255, group, row, BEFORE)[0]
    levels: np.ndarray = moved.mul(255).round().to(torch.uint8).numpy()
    return levels


def _ordered_jitter(group: CropGroup, drawn: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The changes of the jitter that are applied, in their order, and how much of each."""
    if group.color_jitter is None or not drawn["color_jitter.apply"]:
        return np.empty(0, np.int64), np.empty(0, np.float32)
    ops = [op for op in drawn["color_jitter.order"].tolist() if getattr(group.color_jitter, JITTER_OPS[op]) > 0]
    amounts = [drawn[f"color_jitter.{JITTER_OPS[op]}"] for op in ops]
    return np.array(ops, np.int64), np.array(amounts, np.float32)


def _half_gaussian(sigma: float, taps: int) -> np.ndarray:
    """The middle and one side of a blur's kernel, as far as its Gaussian reaches."""
    reach = max(1, min(taps // 2, math.ceil(TAIL * sigma)))
    weights: np.ndarray = np.exp(-(np.arange(reach + 1) ** 2) / (2 * sigma**2))
    normed: np.ndarray = weights / (2 * weights.sum() - weights[0])
    return normed.astype(np.float32)
