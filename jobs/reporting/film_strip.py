"""Pictures of what is followed through videos: frames in a row, above with what is true of
them, below with what is told."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from augment.palette import class_colours
from jobs.reporting import contact_sheet
from jobs.reporting.contact_sheet import Cell
from jobs.reporting.figures import Drawing

_CELL_PX = 168
_COVER = 0.55  # of an object's colour over the frame


@dataclass(frozen=True, eq=False)
class Film:
    """Some frames of a video.

    Attributes:
        name: Of the video.
        score: What is said of it.
        frames: (T, 3, H, W) uint8.
        told: Numbers of the objects that are told, (T, H, W) uint8, 0 where none is.
        truth: The true ones.
    """

    name: str
    score: str
    frames: np.ndarray
    told: np.ndarray
    truth: np.ndarray


def sheet(films: Sequence[Film], which: str) -> Drawing:
    """Draw videos, a row each.

    Args:
        films: At least one.
        which: Which videos they are, for the title.
    """
    rows = []
    for film in films:
        pairs = list(map(pair, film.frames, film.truth, film.told))
        captions = [f"{film.name}\n{film.score}", *[""] * (len(pairs) - 1)]
        rows.append([Cell(one, caption) for one, caption in zip(pairs, captions, strict=True)])
    finding = f"Above the truth, below what is followed from the first frame on: {which}"
    drawn = contact_sheet.grid(rows, title=finding, cell_px=_CELL_PX)
    return Drawing("videos.jpg", finding, contact_sheet.to_jpeg(drawn))


def pair(frame: np.ndarray, truth: np.ndarray, told: np.ndarray) -> Tensor:
    """Put a frame (3, H, W) under what is true of it, above what is told: (3, 2H, W) uint8."""
    return torch.cat([_covered(frame, mask) for mask in (truth, told)], dim=1)


def _covered(frame: np.ndarray, mask: np.ndarray) -> Tensor:
    """Lay the colours of objects over a frame, (3, H, W) uint8."""
    colours = class_colours(256)[mask].transpose(2, 0, 1)
    mixed = (1 - _COVER) * frame + _COVER * colours
    return torch.from_numpy(np.where(mask > 0, mixed, frame).astype(np.uint8))
