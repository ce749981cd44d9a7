"""What is known of a sequence's frames, as maps to carry along and as what they are judged by."""

from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.probing.patch_votes import shares_of
from models.probing.propagation import found_points, spread_points
from models.probing.region_scores import boundary_agreement, points_found, region_overlap
from pipelines.sequences.reading import Read
from pipelines.sequences.sequences import Point

VOID = 255  # value of pixels that are not judged, where objects have other values
_DOT = 0.012  # radius of a key point in a picture, as a share of the diagonal
Size = tuple[int, int]
Scores = dict[str, list[float]]


class Truth(Protocol):
    """What a sequence begins with, and how what becomes of it is judged.

    What is told or true of a frame is an array whose meaning is the class's own.
    """

    def labels(self, grid: Size) -> Tensor:
        """Return the first frame's labels to carry along, (C, h, w) float32."""

    def told(self, labels: Tensor, size: Size) -> np.ndarray:
        """Return what carried labels (C, h, w) tell of a frame of a size."""

    def copied(self, size: Size) -> np.ndarray:
        """Return what the first frame would tell of a frame of a size."""

    def known(self, read: Read) -> tuple[Size, np.ndarray] | None:
        """Return what is true of a frame, and the size at which; None where it is not judged."""

    def judge(self, told: np.ndarray, truth: np.ndarray) -> Scores:
        """Score what is told of a frame."""

    def shown(self, read: Read) -> np.ndarray | None:
        """Return what is true of a frame, for people, whether it is judged or not."""

    def drawn(self, told: np.ndarray, size: Size, small: Size) -> np.ndarray:
        """Draw what is told or true of a frame of a size as class indices, at another size; 0 is
        nothing."""


@dataclass(frozen=True, eq=False)
class FollowedMasks:
    """The objects of a first mask.

    Attributes:
        first: Their numbers from 1 on, 0 elsewhere, (H, W) uint8; `void` of pixels that are not
            judged.
        values: The value of each object in mask files.
        void: Of pixels that are not judged, in mask files and in `first`; None: there are none.
        tolerance: Of F.
    """

    first: np.ndarray
    values: tuple[int, ...]
    void: int | None
    tolerance: float

    @classmethod
    def of(
        cls, indices: np.ndarray, ignore: int | None, tolerance: float
    ) -> "FollowedMasks | None":
        """Find the objects of a mask (H, W) uint8; None where it has none.

        Args:
            indices: Values as in the file; 0 is the background.
            ignore: Value of pixels that are not judged; None: 255, but where that is the only
                value beside 0 and must be the object.
            tolerance: Of F.
        """
        found = set(np.unique(indices).tolist()) - {0}
        void = ignore
        if ignore is None and found != {VOID}:
            void = VOID
        values = tuple(sorted(found - {void}))
        if not values:
            return None
        made = cls(indices, values, void, tolerance)
        return cls(made.numbered(indices), values, void, tolerance)

    def numbered(self, indices: np.ndarray) -> np.ndarray:
        """Number the objects of a mask as in the first; others are background."""
        numbers = np.zeros(256, np.uint8)
        for number, value in enumerate(self.values, start=1):
            numbers[value] = number
        if self.void is not None:
            numbers[self.void] = VOID
        numbered: np.ndarray = numbers[indices]
        return numbered

    def labels(self, grid: Size) -> Tensor:
        """Return the share of each object in every place, the background first."""
        num_classes = len(self.values) + 1
        shares = shares_of(torch.from_numpy(self.first)[None], grid, num_classes)
        labels: Tensor = shares[0].T.unflatten(1, grid)
        return labels

    def told(self, labels: Tensor, size: Size) -> np.ndarray:
        """Return the likeliest object of each pixel, (H, W) uint8."""
        large = functional.interpolate(labels[None], size, mode="bilinear", align_corners=False)
        return np.asarray(large[0].argmax(0).to(torch.uint8).cpu())

    def copied(self, size: Size) -> np.ndarray:
        """Return the first mask, at another size."""
        first = torch.from_numpy(self.first)[None, None]
        return functional.interpolate(first, size, mode="nearest-exact")[0, 0].numpy()

    def known(self, read: Read) -> tuple[Size, np.ndarray] | None:
        """Return the mask of a frame; DAVIS judges neither the first frame nor the last."""
        mask = None if read.is_last else self.shown(read)
        return None if mask is None else ((mask.shape[0], mask.shape[1]), mask)

    def shown(self, read: Read) -> np.ndarray | None:
        """Return the mask of a frame."""
        return None if read.mask is None else self.numbered(read.mask)

    def judge(self, told: np.ndarray, truth: np.ndarray) -> Scores:
        """Return J and F of each object."""
        void = truth == VOID if self.void is not None else None
        pairs = [(told == number, truth == number) for number in range(1, len(self.values) + 1)]
        return {
            "j": [region_overlap(*pair, void) for pair in pairs],
            "f": [boundary_agreement(*pair, void, tolerance=self.tolerance) for pair in pairs],
        }

    def drawn(self, told: np.ndarray, size: Size, small: Size) -> np.ndarray:
        """Return the numbers of the objects, void pixels as nothing."""
        inside = np.where(told > len(self.values), 0, told).astype(np.uint8)
        shown = torch.from_numpy(inside)[None, None]
        return functional.interpolate(shown, small, mode="nearest-exact")[0, 0].numpy()


@dataclass(frozen=True, eq=False)
class FollowedPoints:
    """The key points of a first frame.

    Attributes:
        names: Of the points.
        first: Where they are, (K, 2) x and y in px.
        size: Height and width of that frame, px.
        alphas: Of PCK.
    """

    names: tuple[str, ...]
    first: np.ndarray
    size: Size
    alphas: tuple[float, ...]

    @classmethod
    def of(
        cls, points: Many[Point], size: Size, alphas: tuple[float, ...]
    ) -> "FollowedPoints | None":
        """Take the points of a frame of a size; None where there are none."""
        if not points:
            return None
        places = np.array([point[1:] for point in points], np.float64)
        return cls(tuple(point[0] for point in points), places, size, alphas)

    def labels(self, grid: Size) -> Tensor:
        """Return a map of each point."""
        return spread_points(torch.from_numpy(self.first).float(), self.size, grid)

    def told(self, labels: Tensor, size: Size) -> np.ndarray:
        """Return where each point is, (K, 2)."""
        return np.asarray(found_points(labels, size).cpu(), np.float64)

    def copied(self, size: Size) -> np.ndarray:
        """Return the first places, at another size."""
        return self.first * (size[1] / self.size[1], size[0] / self.size[0])

    def known(self, read: Read) -> tuple[Size, np.ndarray] | None:
        """Return where the points are that are seen; one alone has no box to measure by."""
        truth = self.shown(read)
        assert truth is not None
        seen = int(np.isfinite(truth).all(1).sum())
        return ((read.pixels.shape[0], read.pixels.shape[1]), truth) if seen > 1 else None

    def shown(self, read: Read) -> np.ndarray | None:
        """Return where the points are, (K, 2), NaN of those that are not seen."""
        seen = {name: (x, y) for name, x, y in read.points}
        return np.array([seen.get(name, (np.nan, np.nan)) for name in self.names])

    def judge(self, told: np.ndarray, truth: np.ndarray) -> Scores:
        """Return which of the points that are seen are found, by alpha."""
        seen = np.isfinite(truth).all(1)
        found = points_found(told[seen], truth[seen], self.alphas)
        return {
            f"pck_{alpha:g}": row.astype(float).tolist()
            for alpha, row in zip(self.alphas, found, strict=True)
        }

    def drawn(self, told: np.ndarray, size: Size, small: Size) -> np.ndarray:
        """Return a dot for each point."""
        places = told * (small[1] / size[1], small[0] / size[0])
        down, across = np.mgrid[: small[0], : small[1]] + 0.5
        shown = np.zeros(small, np.uint8)
        for number, (x, y) in enumerate(places, start=1):
            near = np.hypot(across - x, down - y) <= max(1.5, _DOT * np.hypot(*small))
            shown[near] = min(number, VOID - 1)
        return shown
