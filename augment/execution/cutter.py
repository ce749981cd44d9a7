"""Makes the views of samples one by one, each while its decoded image is in the cache."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from augment.column_draws import crop_bounds, crop_uniforms, view_keys
from augment.execution.geometry import REDUCTIONS, crop_resize, reduction_for
from augment.kernels.crop import draw_box
from augment.picture import Picture
from augment.recipe import CropGroup, Views

if TYPE_CHECKING:
    from augment.execution.photometric_cpu import DrawnChanges


class Cutter:
    """Cuts the views of a block's samples, and changes their colours where that is asked for.

    Args:
        views: The recipe.
        seed: The run's seed.
        crops: (B, V, 3, S, S) uint8 by group, (B, V, T, 3, S, S) of clips, for the results.
        epoch: (B,) int64.
        sample_id: (B,) int64.
        photometric: Change the colours as well, as `ViewGenerator.photometric` does; this imports
            torch, and cutting alone does not.
    """

    def __init__(
        self,
        views: Views,
        seed: int,
        crops: dict[str, np.ndarray],
        epoch: np.ndarray,
        sample_id: np.ndarray,
        *,
        photometric: bool,
    ) -> None:
        self._groups = []
        for name, rows in crops.items():
            group = views.groups[name]
            size = views.group_size(name)
            keys = view_keys(views, name, epoch, sample_id)
            changes = None
            if photometric and group.changes():
                changes = _drawn_changes(group, seed, keys, size)
            uniforms = crop_uniforms(seed=seed, **keys)
            cut = np.empty(rows.shape[2:], np.uint8)
            self._groups.append(_Group(rows, size, uniforms, crop_bounds(group), changes, cut))

    def reduction(self, row: int, height: int, width: int) -> int:
        """Return by how much a row's image of this size may be decoded smaller."""
        if any(reduction_for(height, width, group.size) == 1 for group in self._groups):
            return 1  # as most are, whatever their boxes
        least = REDUCTIONS[0]
        for group in self._groups:
            for place in range(row * group.count, (row + 1) * group.count):
                _, _, box_height, box_width, _ = draw_box(
                    group.uniforms[place], height, width, group.bounds
                )
                least = min(least, reduction_for(box_height, box_width, group.size))
                if least == 1:
                    return 1
        return least

    def first_box(
        self, row: int, height: int, width: int, view: int = 0
    ) -> tuple[int, int, int, int, bool]:
        """Return where a row's first view lies, or another of the first group, in its image of this
        size: top, left, height and width in px, and whether it is mirrored."""
        group = self._groups[0]
        place = row * group.count + view
        return draw_box(group.uniforms[place], height, width, group.bounds)

    def fill(self, row: int, picture: Picture) -> None:
        """Write a row's views; of a clip of fewer frames than the columns have, the first places.

        Of several clips, one after the other in the picture, views take one each in turn.
        """
        number = 0  # of the view among all
        for group in self._groups:
            for view in range(group.count):
                place = row * group.count + view
                target = group.rows[row, view]
                cut = group.cut
                shown = picture
                if picture.pixels.ndim == 4:
                    shown = _in_turn(picture, number, len(target))
                    target = target[: len(shown.pixels)]
                    cut = cut[: len(shown.pixels)]
                number += 1
                box = draw_box(group.uniforms[place], picture.height, picture.width, group.bounds)
                crop_resize(shown, *box, group.size, cut)
                if group.changes is None:
                    target[...] = cut
                else:
                    group.changes.apply(place, cut, target)


def _in_turn(picture: Picture, number: int, num_frames: int) -> Picture:
    """Return the clip of so many frames that is a view's turn."""
    clips = max(1, len(picture.pixels) // num_frames)
    start = number % clips * num_frames
    return replace(picture, pixels=picture.pixels[start : start + num_frames])


@dataclass(frozen=True)
class _Group:
    """Views of one group of a recipe, for `Cutter`.

    Attributes:
        rows: (B, V, ...), for the results.
        size: Side of a view, px.
        uniforms: (B * V, N), the draws of the boxes.
        bounds: Of the recipe, for the boxes.
        changes: Of the colours, of B * V views.
        cut: A view in the cache: each is cut here, and written to its own place once, in order.
    """

    rows: np.ndarray
    size: int
    uniforms: np.ndarray
    bounds: np.ndarray
    changes: "DrawnChanges | None"
    cut: np.ndarray

    @property
    def count(self) -> int:
        """Return V, the number of views."""
        count: int = self.rows.shape[1]
        return count


def _drawn_changes(
    group: CropGroup, seed: int, keys: dict[str, np.ndarray], size: int
) -> "DrawnChanges":
    """Draw the changes of the colours of views of a side, by their keys."""
    import torch  # here, as are its modules: most tasks only cut

    from augment.execution.photometric_cpu import DrawnChanges
    from augment.sample import sample_photometric

    tensors = {name: torch.from_numpy(key) for name, key in keys.items()}
    return DrawnChanges(group, sample_photometric(group, seed=seed, **tensors), size)
