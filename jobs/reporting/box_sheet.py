"""Pictures of detection: the true boxes of a sample, and beside them those that are told."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.ops import box_convert, box_iou

from augment.execution.boxes import fitted
from jobs.reporting import contact_sheet
from jobs.reporting.contact_sheet import Cell, Colour
from jobs.reporting.figures import Drawing

LEAST_SCORE = 0.3  # of a box that is drawn
_OVERLAP = 0.5  # with a true box, of one that finds it
_CELL_PX = 248
_BLOCKS = 2
_LINE_PX = 2
_NEAR_PX = 5  # between the edges of two boxes of which one would hide the other
_TAG_PX = 28
_LETTERS_PX = 10
_MOST_NAMED = 8


@dataclass(frozen=True, eq=False)
class Sample:
    """An image with its boxes.

    Attributes:
        name: Of the sample.
        image: (3, S, S) uint8; the whole image lies in the upper left corner.
        height, width: Of its file, px.
        known: (n, 5) x, y, width, height in px of the file, and the class.
        told: (m, 6) the same, and the score; of a score of `LEAST_SCORE` at least.
    """

    name: str
    image: np.ndarray
    height: int
    width: int
    known: np.ndarray
    told: np.ndarray


def sheet(samples: Sequence[Sample], classes: Sequence[str], which: str) -> Drawing:
    """Draw samples with their true boxes, and beside them with the boxes that are told.

    Args:
        samples: At least one.
        classes: Names of the classes, by index.
        which: Which samples they are, for the title.
    """
    rows = [_cells(sample) for sample in samples]
    found = sum(_num_found(sample) for sample in samples)
    num_known = sum(len(sample.known) for sample in samples)
    finding = f"{found} of {num_known} true boxes are found in {which}"
    drawn = contact_sheet.grid(
        rows,
        title=finding,
        legend=_legend(samples, classes),
        blocks=min(_BLOCKS, len(rows)),
        cell_px=_CELL_PX,
    )
    return Drawing("boxes.jpg", finding, contact_sheet.to_jpeg(drawn))


def _cells(sample: Sample) -> list[Cell]:
    num_known = len(sample.known)
    said = f"told: {_boxes(len(sample.told))}; {_num_found(sample)} of {num_known} found"
    true = f"{sample.name}\ntrue: {_boxes(num_known)}"
    drawn = _drawn(sample, sample.told)
    return [Cell(_drawn(sample, sample.known), true), Cell(drawn, f"\n{said}")]


def _boxes(count: int) -> str:
    return f"{count} box{'' if count == 1 else 'es'}"


def _drawn(sample: Sample, boxes: np.ndarray) -> Tensor:
    """Draw boxes over an image that fills a cell: (3, h, w) uint8; a score beside its box."""
    inner_height, inner_width = fitted(sample.height, sample.width, sample.image.shape[1])
    pixels = sample.image[:, :inner_height, :inner_width].transpose(1, 2, 0)
    height, width = fitted(sample.height, sample.width, _CELL_PX)
    picture = Image.fromarray(np.ascontiguousarray(pixels)).resize(
        (width, height), Image.Resampling.LANCZOS
    )
    draw = ImageDraw.Draw(picture)
    scale = _CELL_PX / max(sample.height, sample.width)
    before = list[np.ndarray]()
    tags = list[tuple[tuple[int, int], str, Colour]]()
    for x, y, wide, tall, label, *score in boxes.tolist():
        edges = scale * np.array([x, y, x + wide, y + tall])
        # what would lie on another box goes inside it, and its score beside the other's
        hidden = sum(bool((np.abs(edges - other) < _NEAR_PX).all()) for other in before)
        before.append(edges)
        inside = hidden * (_LINE_PX + 1)
        left, top, right, bottom = edges.round().astype(int).tolist()
        place = (left + inside, top + inside)
        end = (min(width - 1, right) - inside, min(height - 1, bottom) - inside)
        colour = _colour(int(label))
        if place[0] < end[0] and place[1] < end[1]:
            draw.rectangle((place, end), outline=colour, width=_LINE_PX)
        if score:
            # above a box that it would cover
            lifted = _TAG_PX // 2 if bottom - top < _TAG_PX and top >= _TAG_PX // 2 else 0
            beside = (place[0] + hidden * _TAG_PX, place[1] - lifted)
            tags.append((beside, f"{score[0]:.0%}", colour))
    for beside, text, colour in reversed(tags):  # the surest is written last, over all lines
        contact_sheet.tag(draw, text, beside, colour, _LETTERS_PX)
    return torch.from_numpy(np.array(picture).transpose(2, 0, 1).copy())


def _num_found(sample: Sample) -> int:
    """Count the true boxes that a told one of their class covers, each told one for one of them."""
    known = sample.known
    told = sample.told
    if not len(known) or not len(told):
        return 0
    corners = [box_convert(torch.from_numpy(each[:, :4]), "xywh", "xyxy") for each in (told, known)]
    overlap = box_iou(corners[0].double(), corners[1].double()).numpy()  # (m, n)
    overlap[told[:, 4][:, None] != known[:, 4]] = 0
    free = np.ones(len(known), bool)
    for row in np.argsort(-told[:, 5], kind="stable"):
        best = int(np.where(free, overlap[row], 0).argmax())
        free[best] &= overlap[row, best] < _OVERLAP
    return int((~free).sum())


def _legend(samples: Sequence[Sample], classes: Sequence[str]) -> list[tuple[Colour | None, str]]:
    """Say which colour is which class, and what is drawn."""
    labels = np.concatenate([boxes[:, 4] for each in samples for boxes in (each.known, each.told)])
    found = np.unique(labels).astype(int).tolist()
    entries: list[tuple[Colour | None, str]] = [
        (_colour(label), classes[label]) for label in found[:_MOST_NAMED]
    ]
    if len(found) > _MOST_NAMED:
        entries.append((None, f"and {len(found) - _MOST_NAMED} more classes"))
    note = f"left: true boxes; right: told boxes with their score, of {LEAST_SCORE:.0%} at least"
    return [*entries, (None, note)]


def _colour(label: int) -> Colour:
    """Return the colour of a class, of twenty in turn."""
    red, green, blue = matplotlib.colormaps["tab20"](label * 2 % 20 + label // 10 % 2)[:3]
    return round(255 * red), round(255 * green), round(255 * blue)
