"""Optical flow between the frames of a clip, on the views themselves: what a crop leaves out has
none, and a mirrored view moves the other way."""

from dataclasses import dataclass

import numpy as np

from augment.picture import Picture
from pipelines import schema
from pipelines.motion.optical_flow import FlowKind, flow_between
from pipelines.stream.shapes import Clips, Columns, Crops, Filler, Shape


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
        return next(iter(self.crops.views.groups))

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
        if self.crops.photometric and self.crops.views.groups[self._group].changes():
            alone = Clips(_first_group(self.crops), self.num_frames)
            uncoloured = alone.empty(len(epoch))
            plain = alone.filler(uncoloured, epoch, sample_id)
            frames = uncoloured[self._group]
        return _FlowFiller(filler, plain, frames, columns[schema.FLOW], self.kind)


def _first_group(crops: Crops) -> Crops:
    """Return the crops of the first group alone, cut alike, with their colours as they are."""
    name, group = next(iter(crops.views.groups.items()))
    first = crops.views.model_copy(update={"groups": {name: group}})
    return Crops(first, crops.seed, photometric=False)


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
