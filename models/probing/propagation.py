"""Labels carried through a video by what its places look like (Vondrick 2018, arXiv:1806.09594;
Jabri 2020, arXiv:2006.14613, section 4): nothing is trained, the features do it alone."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

_TIE = 1e-6  # by which the farthest place counts less than the one straight behind


@dataclass(frozen=True)
class Carrying:
    """How labels are carried.

    Attributes:
        neighbours: Most alike places whose labels are averaged.
        context: Frames before the present one that are looked at, beside the first.
        radius: Places that an object moves at most; a place looks no farther.
        temperature: Cosine similarities are divided by it, for the weights of the average.
    """

    neighbours: int = 10
    context: int = 20
    radius: float = 12.0
    temperature: float = 0.05


class Propagation:
    """Carries the labels of a video's first frame to the others, one after the other.

    Each place takes the average of the labels of the places of the context that are most alike to
    it, weighted by a softmax over their similarities. Of places equally alike the nearest count.
    What is kept are the context's frames and no more, however long the video is.

    Args:
        carrying: How.
        maps: Features of the first frame, (D, h, w).
        labels: Its labels, (C, h, w) float.
    """

    def __init__(self, carrying: Carrying, maps: Tensor, labels: Tensor) -> None:
        self._how = carrying
        first, labels = _unit(maps), labels.movedim(0, 2)
        self._features = first.new_empty((1 + carrying.context, *first.shape))
        self._labels = labels.new_empty((1 + carrying.context, *labels.shape))
        self._features[0] = first
        self._labels[0] = labels
        self._apart = distances(carrying.radius, first.shape[1], first.device)
        self._carried = 0

    def __call__(self, maps: Tensor) -> Tensor:
        """Return the labels of the next frame, (C, h, w), of its features (D, h, w)."""
        held = 1 + min(self._carried, self._how.context)
        features = _unit(maps)
        context = self._features[:held], self._labels[:held]
        labels = carried(features, *context, self._how, self._apart)
        if self._how.context:
            oldest = 1 + self._carried % self._how.context
            self._features[oldest] = features
            self._labels[oldest] = labels
        self._carried += 1
        return labels.movedim(2, 0)


def _unit(maps: Tensor) -> Tensor:
    """Return features (D, h, w) as (h, w, D), of length 1."""
    return functional.normalize(maps.float(), dim=0).movedim(0, 2).contiguous()


def carried(features: Tensor, keys: Tensor, values: Tensor, how: Carrying, apart: Tensor) -> Tensor:
    """Average the labels of the most alike places of a context.

    Args:
        features: Of the present frame, of length 1, (h, w, D).
        keys: Of the context's frames, (F, h, w, D).
        values: Their labels, (F, h, w, C).
        how: How many, and how sharply.
        apart: Of `distances`.

    Returns:
        (h, w, C).
    """
    num_frames, height, width = keys.shape[:3]
    reach = len(apart) // 2
    far = apart > how.radius
    bias = (-_TIE / max(how.radius, 1) * apart).masked_fill(far, -torch.inf)
    rows = []
    for row in range(height):  # a row looks at a band of rows: all at once would not fit
        top, bottom = max(0, row - reach), min(height, row + reach + 1)
        near = keys[:, top:bottom].flatten(1, 2)  # (F, b*w, D)
        own = features[row].expand(num_frames, -1, -1)  # (F, w, D)
        band = bias[top - row + reach : bottom - row + reach].flatten(0, 1).T  # (w, b*w)
        alike = torch.baddbmm(band, own, near.mT)  # (F, w, b*w)
        best, frame, place = _best(alike, how.neighbours)
        rows.append((best, frame * (height * width) + place + top * width))
    best, index = map(torch.stack, zip(*rows, strict=True))  # (h, w, k)
    weights = (best / how.temperature).softmax(dim=2)
    return (weights.unsqueeze(3) * values.flatten(0, 2)[index]).sum(2)


def _best(alike: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Choose the highest of (F, w, n) for each of w, among F * n.

    Returns:
        Their values, which of F and which of n, (w, count); -inf where there are fewer.
    """
    num_frames, _, num_places = alike.shape
    alike = functional.pad(alike, (0, max(0, count - num_places)), value=-torch.inf)
    best, place = alike.topk(count, dim=2)
    best, place = (one.movedim(1, 0).flatten(1) for one in (best, place))  # (w, F*count)
    if num_frames > 1:
        best, chosen = best.topk(count, dim=1)
        return best, chosen // count, place.gather(1, chosen).clamp(max=num_places - 1)
    return best, torch.zeros_like(place), place.clamp(max=num_places - 1)


def distances(radius: float, width: int, device: torch.device) -> Tensor:
    """Return how far the places of the rows around a row are from its own.

    Args:
        radius: The rows are those within it.
        width: Places of a row.
        device: Of the result.

    Returns:
        (rows, w of theirs, w of its own).
    """
    reach = math.floor(radius)
    down = torch.arange(-reach, reach + 1, device=device).view(-1, 1, 1)
    place = torch.arange(width, device=device)
    across = place.view(-1, 1) - place
    return (down.square() + across.square()).float().sqrt()


def spread_points(points: Tensor, size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Make a map of each point: shared out to the four places around it, (K, h, w).

    Args:
        points: (K, 2) x and y in px, inside the picture.
        size: Height and width of the picture, px.
        grid: h and w.
    """
    height, width = grid
    x = (points[:, 0] * width / size[1] - 0.5).clamp(0, width - 1)
    y = (points[:, 1] * height / size[0] - 0.5).clamp(0, height - 1)
    across = (1 - (x.view(-1, 1) - torch.arange(width, device=x.device)).abs()).clamp(min=0)
    down = (1 - (y.view(-1, 1) - torch.arange(height, device=y.device)).abs()).clamp(min=0)
    return down.unsqueeze(2) * across.unsqueeze(1)


def found_points(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Find each point again: the centre of the highest place of its map and those around it.

    Args:
        maps: (K, h, w), none below 0.
        size: Height and width of the picture, px.

    Returns:
        (K, 2) x and y in px.
    """
    height, width = maps.shape[1:]
    top = maps.flatten(1).argmax(1)
    y, x = top // width, top % width
    down = torch.arange(height, device=maps.device)
    across = torch.arange(width, device=maps.device)
    near = ((down - y.view(-1, 1)).abs() <= 1).unsqueeze(2) & (
        (across - x.view(-1, 1)).abs() <= 1
    ).unsqueeze(1)
    weight = maps * near
    total = weight.sum((1, 2)).clamp(min=1e-12)
    at_x = (weight.sum(1) * (across + 0.5)).sum(1) / total * size[1] / width
    at_y = (weight.sum(2) * (down + 0.5)).sum(1) / total * size[0] / height
    return torch.stack([at_x, at_y], dim=1)
