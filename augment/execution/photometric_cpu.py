"""The changes of a recipe executed on the CPU view by view, for the decode task and for training
without a GPU."""

from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor

from augment.execution.photometric import AFTER, BEFORE
from augment.kernels import colour
from augment.ops import GaussianBlur
from augment.recipe import CropGroup
from augment.sample import JITTER_OPS

# of a level: by so much a threshold in float32 may lie above the level that it means
_ROUNDING = 1e-2


def apply_on_cpu(
    crops: np.ndarray, group: CropGroup, draws: dict[str, Tensor], out: np.ndarray
) -> None:
    """Change views as drawn.

    Equal to `augment.kornia_ops.apply_photometric` up to rounding; ops without a compiled form are
    executed there.

    Args:
        crops: (B, 3, S, S) uint8, or clips (B, T, 3, S, S), whose frames share their draws; left
            untouched.
        group: Recipe of the views.
        draws: `augment.sample.sample_photometric` of the same recipe, on the CPU.
        out: crops' shape, overwritten: uint8, or float32 in [0, 1].
    """
    changes = DrawnChanges(group, draws, crops.shape[-1])
    for index, (images, targets) in enumerate(zip(crops, out, strict=True)):
        changes.apply(index, images, targets)


class DrawnChanges:
    """The changes drawn for B views, to be applied one view at a time.

    Args:
        group: Recipe of the views.
        draws: `augment.sample.sample_photometric` of the same recipe, on the CPU.
        size: Side of the views, px.
    """

    def __init__(self, group: CropGroup, draws: dict[str, Tensor], size: int) -> None:
        self._group = group
        self._draws = draws
        self._taps = GaussianBlur.taps(size)
        self._compiled = _compiled_changes(group, draws)
        self._changed, self._before, self._after = (
            _any_of(draws, ops) for ops in (group.changes(), BEFORE, AFTER)
        )
        # PyTorch's memory starts where a cache line does.
        self._levels = torch.empty((3, size, size), dtype=torch.uint16).numpy()

    def apply(self, index: int, images: np.ndarray, out: np.ndarray) -> None:
        """Change a view (3, S, S) uint8, or the frames of one (T, 3, S, S), into `out`, which may
        be the same array."""
        if images.ndim == 4:
            for image, target in zip(images, out, strict=True):
                self.apply(index, image, target)
        elif not self._changed[index]:
            out[...] = images if out.dtype == np.uint8 else images.astype(np.float32) / 255
        else:
            if self._before[index]:
                images = (
                    self._by_kornia(index, torch.from_numpy(images) / 255, BEFORE)
                    .mul(255)
                    .round()
                    .byte()
                    .numpy()
                )
            changed = np.empty(images.shape, np.float32) if self._after[index] else out
            colour.change_colours(images, self._compiled, index, self._taps, self._levels, changed)
            if self._after[index]:
                unit = self._by_kornia(index, torch.from_numpy(changed), AFTER)
                out[...] = (unit.mul(255).round() if out.dtype == np.uint8 else unit).numpy()

    def _by_kornia(self, index: int, image: Tensor, ops: Collection[str]) -> Tensor:
        from augment.execution.kornia_ops import apply_photometric  # here, as few recipes need it

        row = {name: value[index : index + 1] for name, value in self._draws.items()}
        return apply_photometric(image[None], self._group, row, ops)[0]


def _compiled_changes(group: CropGroup, draws: dict[str, Tensor]) -> np.ndarray:
    """Return what `augment.kernels.colour` takes of the draws."""
    drawn = {name: value.numpy() for name, value in draws.items()}
    changes = np.zeros(len(next(iter(drawn.values()))), colour.CHANGES)
    changes["ops"], changes["threshold"] = colour.NOTHING, colour.NEVER
    if group.color_jitter is not None:
        order = drawn["color_jitter.order"]
        chosen = drawn["color_jitter.apply"]
        used = np.array([getattr(group.color_jitter, name) > 0 for name in JITTER_OPS])
        amounts = np.stack([drawn[f"color_jitter.{name}"] for name in JITTER_OPS], axis=1)
        changes["ops"] = np.where(chosen[:, None] & used[order], order, colour.NOTHING)
        changes["amounts"] = np.take_along_axis(amounts, order, axis=1)
    if group.greyscale is not None:
        changes["grey"] = drawn["greyscale.apply"]
    if group.blur is not None:
        changes["sigma"] = np.where(drawn["blur.apply"], drawn["blur.sigma"], 0)
    if group.solarize is not None:
        first = np.ceil(
            255 * colour.LEVEL * drawn["solarize.threshold"].astype(np.float64) - _ROUNDING
        )
        changes["threshold"] = np.where(drawn["solarize.apply"], first, colour.NEVER)
    return changes


def _any_of(draws: dict[str, Tensor], ops: Collection[str]) -> list[bool]:
    """Tell for each view whether any of these changes was drawn."""
    flags = [draws[f"{op}.apply"].numpy() for op in ops if f"{op}.apply" in draws]
    num = len(next(iter(draws.values())))
    return np.logical_or.reduce(flags).tolist() if flags else [False] * num
