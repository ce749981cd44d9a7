"""Pictures of segmentation: image, mask and what is told of the same samples, side by side."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from augment.palette import class_colours
from jobs.reporting import contact_sheet
from jobs.reporting.contact_sheet import Cell, Colour
from jobs.reporting.figures import Drawing

_UNJUDGED = (230, 230, 230)
_CELL_PX = 168
_MOST_NAMED = 12  # classes, in the legend
_BLOCKS = 2


def sheet(
    images: np.ndarray,
    masks: np.ndarray,
    told: np.ndarray,
    names: Sequence[str],
    classes: Sequence[str],
    which: str,
) -> Drawing:
    """Draw samples with their masks.

    Args:
        images: (N, 3, S, S) uint8.
        masks: (N, S, S) uint8 class indices; what is no class is not judged.
        told: (N, C, S, S) probabilities.
        names: Of the samples.
        classes: Names of the classes, by index.
        which: Which samples they are, for the title.
    """
    num_classes = told.shape[1]
    answers = told.argmax(1)
    rows = []
    for image, mask, answer, name in zip(images, masks, answers, names, strict=True):
        judged = mask < num_classes
        right = float((answer == mask)[judged].mean()) if judged.any() else float("nan")
        shown = np.where(judged, answer, 255)
        rows.append(
            [
                Cell(torch.from_numpy(image.copy()), name),
                Cell(_coloured(mask, num_classes), "mask"),
                Cell(_coloured(shown, num_classes), f"told, {right:.0%} of pixels right"),
            ]
        )
    finding = f"Image, mask and what is told: {which}"
    blocks = min(_BLOCKS, len(rows))
    seen = np.union1d(masks[masks < num_classes], answers).tolist()
    drawn = contact_sheet.grid(
        rows, title=finding, legend=_legend(seen, classes), blocks=blocks, cell_px=_CELL_PX
    )
    return Drawing("masks.jpg", finding, contact_sheet.to_jpeg(drawn))


def _legend(seen: Sequence[int], classes: Sequence[str]) -> list[tuple[Colour | None, str]]:
    """Say which colour is which class, of those that are drawn."""
    red, green, blue = class_colours(256).T.tolist()
    entries: list[tuple[Colour | None, str]] = [
        ((red[index], green[index], blue[index]), classes[index]) for index in seen[:_MOST_NAMED]
    ]
    if len(seen) > _MOST_NAMED:
        entries.append((None, f"and {len(seen) - _MOST_NAMED} more classes"))
    return [*entries, (_UNJUDGED, "not judged")]


def _coloured(mask: np.ndarray, num_classes: int) -> Tensor:
    """Colour class indices (S, S), what is no class grey: (3, S, S) uint8."""
    colours = class_colours(256)
    colours[num_classes:] = _UNJUDGED
    return torch.from_numpy(colours[mask.astype(np.int64)].transpose(2, 0, 1).copy())
