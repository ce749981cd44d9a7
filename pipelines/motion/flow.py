"""Optical flow between the frames of a clip, on the views themselves: what a crop leaves out has
none, and a mirrored view moves the other way."""

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Literal

import numpy as np

from augment.generator import ViewGenerator
from augment.picture import Picture
from pipelines import schema
from pipelines.stream.shapes import Clips, Columns, Crops, Filler, Shape

FlowKind = Literal["dis", "farneback"]
INSTALL = "pip install 'afield[flow]'"
_SMALLEST = 16  # px; OpenCV's pyramids need as many


def lacking() -> str | None:
    """Say what flow needs and is not installed; None where nothing is lacking."""
    return None if find_spec("cv2") else f"OpenCV, which is not installed: {INSTALL}"


@cache
def _opencv() -> ModuleType:
    import cv2  # here, as it is an extra

    cv2.setNumThreads(1)  # the parallelism is Ray's
    return cv2


@cache
def _dis() -> Any:
    cv2 = _opencv()
    return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)


def flow_between(first: np.ndarray, second: np.ndarray, kind: FlowKind) -> np.ndarray:
    """Find where each place of a frame has moved to in the next.

    Args:
        first: (3, S, S) uint8 RGB.
        second: The same.
        kind: "dis", dense inverse search (arXiv:1603.03590); or "farneback", polynomial expansion
            (Farneback 2003).

    Returns:
        (2, S, S) float32: how far to the right and how far down, px.
    """
    if np.array_equal(first, second):  # DIS refines nothing to something
        return np.zeros((2, *first.shape[1:]), np.float32)
    cv2 = _opencv()
    before, after = (
        cv2.cvtColor(np.ascontiguousarray(frame.transpose(1, 2, 0)), cv2.COLOR_RGB2GRAY)
        for frame in (first, second)
    )
    side = min(before.shape)
    scale = -(-_SMALLEST // side)
    if scale > 1:
        before, after = (
            cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
            for frame in (before, after)
        )
    if kind == "dis":
        found = _dis().calc(before, after, None)
    else:
        # pyramid scale, levels, window, iterations, neighbourhood, its sigma: OpenCV's own sample
        found = cv2.calcOpticalFlowFarneback(before, after, None, 0.5, 3, 15, 3, 5, 1.2, 0)
    found = found[::scale, ::scale] / scale
    return np.ascontiguousarray(found.transpose(2, 0, 1))


@dataclass(frozen=True)
class WithFlow:
    """The columns of clips, and the flow between the frames of each view of the first group:
    (B, V, T - 1, 2, S, S) float16, px of the view.

    It is found on crops whose colours are as in the video, wherever colours are changed.

    Attributes:
        shape: Of clips of the crops.
        crops: What is cut of each frame.
        num_frames: T.
        kind: How it is found.
    """

    shape: Shape
    crops: Crops
    num_frames: int
    kind: FlowKind

    @property
    def _group(self) -> str:
        return next(iter(self.crops.generator.views.groups))

    def empty(self, num_rows: int) -> Columns:
        """Allocate the clips' columns and that of the flow."""
        columns = self.shape.empty(num_rows)
        views, frames, _, height, width = columns[self._group].shape[1:]
        shape = (num_rows, views, frames - 1, 2, height, width)
        return columns | {schema.FLOW: np.zeros(shape, np.float16)}

    def filler(self, columns: Columns, epoch: np.ndarray, sample_id: np.ndarray) -> Filler:
        """Cut the views, and find the flow of each."""
        others = {name: column for name, column in columns.items() if name != schema.FLOW}
        filler = self.shape.filler(others, epoch, sample_id)
        plain: Filler | None = None
        frames = columns[self._group]
        if self.crops.photometric and self.crops.generator.views.groups[self._group].changes():
            alone = Clips(_first_group(self.crops), self.num_frames)
            uncoloured = alone.empty(len(epoch))
            plain = alone.filler(uncoloured, epoch, sample_id)
            frames = uncoloured[self._group]
        return _FlowFiller(filler, plain, frames, columns[schema.FLOW], self.kind)


def _first_group(crops: Crops) -> Crops:
    """Return the crops of the first group alone, cut alike, with their colours as they are."""
    views = crops.generator.views
    name, group = next(iter(views.groups.items()))
    first = views.model_copy(update={"groups": {name: group}})
    return Crops(ViewGenerator(first, crops.generator.seed), photometric=False)


@dataclass(frozen=True)
class _FlowFiller:
    """Fills a row's flow after its views.

    Attributes:
        views: Fills the views.
        plain: Fills `frames`, where the views do not hold what flow is found on.
        frames: (B, V, T, 3, S, S), colours as in the video.
        flow: (B, V, T - 1, 2, S, S).
        kind: How it is found.
    """

    views: Filler
    plain: Filler | None
    frames: np.ndarray
    flow: np.ndarray
    kind: FlowKind

    def reduction(self, row: int, height: int, width: int) -> int:
        return self.views.reduction(row, height, width)

    def fill(self, row: int, picture: Picture) -> None:
        self.views.fill(row, picture)
        if picture.pixels.ndim == 3:
            self.flow[row] = 0  # a still image is a clip in which nothing moves
            return
        if self.plain is not None:
            self.plain.fill(row, picture)
        for view, clip in enumerate(self.frames[row]):
            for index in range(len(clip) - 1):
                self.flow[row, view, index] = flow_between(clip[index], clip[index + 1], self.kind)
