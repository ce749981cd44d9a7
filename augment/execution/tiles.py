"""Tiles of a view: a grid of squares cut apart and each changed by itself, so that no tile gives
its place away.

Where a tile lies can be told without knowing what is in the picture: a line or a ramp of brightness
goes on over the border of two tiles that touch, and a lens shifts red against green more the
further a place is from the middle. Each setting takes one such trace away.
"""

from functools import lru_cache
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from augment.frozen import Frozen
from augment.ops import Fraction, Probability
from augment.rng import state, uniform_of

_SIZES = 8  # to which tiles are downsampled, of equal distance
_NOISE = 0.01  # of the deviation of what is left (arXiv:1505.05192, section 3.1)
_FLOOR = 1e-6


class TileChanges(Frozen):
    """How tiles are cut apart and changed, in the order of the fields; lengths are in sides of a
    tile. The defaults cut without a gap and change nothing."""

    gap: float = Field(
        default=0.0, ge=0, le=2, description="distance of neighbouring tiles, in sides of a tile"
    )
    jitter: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="each tile is moved by up to this along both axes, in sides of a tile",
    )
    channel_jitter: int = Field(
        default=0,
        ge=0,
        le=8,
        description="each colour channel of a tile is moved by up to this along both axes, px",
    )
    resample: Probability = Field(
        default=0.0, description="probability that a tile is downsampled and upsampled again"
    )
    resample_to: Fraction = Field(
        default=10 / 96, description="resample: least side that it is downsampled to, in sides"
    )
    channel_drop: Probability = Field(
        default=0.0, description="probability that colour channels of a tile are replaced"
    )
    num_dropped: Literal[1, 2] = Field(
        default=2, description="channel_drop: channels replaced of the three"
    )
    dropped_to: Literal["noise", "mean"] = Field(
        default="noise",
        description="channel_drop: faint noise, or the mean colour of all images",
    )
    normalise: bool = Field(
        default=False,
        description="normalise each channel of a tile by its own mean and deviation",
    )

    def idle(self) -> dict[str, str]:
        """Return what changes that never happen have no use for."""
        idle = {} if self.resample else {"resample_to": "resample"}
        if not self.channel_drop:
            idle |= dict.fromkeys(("num_dropped", "dropped_to"), "channel_drop")
        return idle


class Layout(NamedTuple):
    """Where the tiles of a grid lie in a view, px.

    Attributes:
        rows: Tiles along each axis, R.
        side: Of a tile, p.
        pitch: From one tile to the next.
        first: Of the first tile from the view's border, where nothing is moved.
        jitter: By how much a tile may be moved.
        size: Side of the view.
    """

    rows: int
    side: int
    pitch: int
    first: int
    jitter: int
    size: int


def layout(size: int, side: int, changes: TileChanges, rows: int = 3) -> Layout:
    """Lay a grid of tiles in the middle of a view.

    Args:
        size: Side of the view, px.
        side: Of a tile, px.
        changes: Its gap and jitter are rounded to whole px.
        rows: Tiles along each axis.

    Raises:
        ValueError: the tiles do not fit into the view.
    """
    gap = round(changes.gap * side)
    jitter = round(changes.jitter * side)
    needed = rows * side + (rows - 1) * gap + 2 * jitter
    if needed > size:
        raise ValueError(
            f"{rows} x {rows} tiles of encoder.patch_size={side}, gaps of {gap} and jitter of"
            f" {jitter} px need views.size={needed}, got {size}: lower encoder.patch_size,"
            " method.tiles.gap or method.tiles.jitter"
        )
    first = (size - rows * side - (rows - 1) * gap) // 2
    return Layout(rows, side, side + gap, first, jitter, size)


def cut_tiles(images: Tensor, place: Layout, changes: TileChanges, **keys: Any) -> Tensor:
    """Cut each view into a grid of tiles and change each of them by itself.

    Args:
        images: (B, 3, S, S) float, normalised: 0 is the mean colour. Left as they are.
        place: Where the tiles lie.
        changes: What happens to them.
        keys: `seed`, `epoch` (B,) and `sample_id` (B,) of the draws, and `view` (0) where several
            views of a sample are cut.

    Returns:
        Tiles in raster order (B, R * R, 3, p, p).
    """
    tiles = _gather(images, *tile_corners(place, changes, **keys), place)
    if changes.resample:
        tiles = _resample(tiles, changes, **keys)
    if changes.channel_drop:
        tiles = _drop_channels(tiles, changes, **keys)
    return normalise(tiles) if changes.normalise else tiles


def tile_corners(place: Layout, changes: TileChanges, **keys: Any) -> tuple[Tensor, Tensor]:
    """Draw the row and the column of each channel's upper left px of each tile: (B, R * R, 3)
    int64 each, within the view."""
    index = torch.arange(place.rows**2, device=keys["sample_id"].device)
    base = torch.stack([index // place.rows, index % place.rows], dim=1)  # (N, 2)
    moved = _whole(_draw("jitter", len(base), 2, **keys), place.jitter)  # (B, N, 2)
    corner = (place.first + place.pitch * base + moved).unsqueeze(2)  # (B, N, 1, 2)
    shift = _whole(_draw("channel_jitter", len(base), 6, **keys), changes.channel_jitter)
    corners = (corner + shift.unflatten(2, (3, 2))).clamp(0, place.size - place.side)
    return corners[..., 0], corners[..., 1]


def normalise(tiles: Tensor) -> Tensor:
    """Give each channel of tiles (..., 3, p, p) mean 0 and deviation 1 over its px; a flat one
    becomes 0."""
    x = tiles.float()
    variance, mean = torch.var_mean(x, dim=(-2, -1), keepdim=True, correction=0)
    return ((x - mean) / (variance + _FLOOR).sqrt()).to(tiles.dtype)


def join_tiles(tiles: Tensor, place: Layout, background: float) -> Tensor:
    """Lay tiles (B, R * R, 3, p, p) out as one picture (B, 3, S, S), none of them moved."""
    canvas = tiles.new_full((len(tiles), 3, place.size, place.size), background)
    for index in range(tiles.shape[1]):
        top = place.first + place.pitch * (index // place.rows)
        left = place.first + place.pitch * (index % place.rows)
        canvas[:, :, top : top + place.side, left : left + place.side] = tiles[:, index]
    return canvas


def resampling(side: int, sizes: tuple[int, ...], mode: str = "area") -> Tensor:
    """Return, for each size, the map of a line of `side` px to that many and back: (K, side, side)
    float32. Applied to the rows and the columns it down- and upsamples a square."""
    lines = torch.eye(side).unsqueeze(0)  # each px of a line by itself: (1, side, side)
    back = [
        functional.interpolate(
            functional.interpolate(lines, size=size, mode=mode), size=side, mode="linear"
        )
        for size in sizes
    ]
    return torch.cat(back).transpose(1, 2)


def _draw(
    op: str,
    num_tiles: int,
    num: int,
    *,
    seed: int,
    epoch: Tensor,
    sample_id: Tensor,
    view: int = 0,
) -> Tensor:
    """Draw numbers in [0, 1) for every tile, (B, N, num): a function of (seed, epoch, sample, view,
    tile) and of nothing else."""
    key = state(seed=seed, epoch=epoch, sample_id=sample_id, view=view, op=f"tile.{op}")
    u: Tensor = uniform_of(key, num_tiles * num).unflatten(1, (num_tiles, num))
    return u


def _whole(uniform: Tensor, bound: int) -> Tensor:
    """Turn numbers in [0, 1) into whole ones from -bound to bound, all equally likely."""
    return (uniform * (2 * bound + 1)).long() - bound


def _gather(images: Tensor, top: Tensor, left: Tensor, place: Layout) -> Tensor:
    """Read the squares at corners (B, N, 3) of each channel, all at once: (B, N, 3, p, p)."""
    span = torch.arange(place.side, device=images.device)
    sample = torch.arange(len(images), device=images.device).view(-1, 1, 1, 1, 1)
    channel = torch.arange(3, device=images.device).view(3, 1, 1)
    rows = (top.unsqueeze(-1) + span).unsqueeze(-1)  # (B, N, 3, p, 1)
    columns = (left.unsqueeze(-1) + span).unsqueeze(-2)  # (B, N, 3, 1, p)
    return images[sample, channel, rows, columns]


@lru_cache(maxsize=8)
def _resamplings(side: int, least: int, device: torch.device) -> Tensor:
    sizes = torch.linspace(least, max(least, side - 1), _SIZES).round().long()
    return resampling(side, tuple(sizes.tolist())).to(device)


def _resample(tiles: Tensor, changes: TileChanges, **keys: Any) -> Tensor:
    """Downsample some tiles to one of a few sizes and upsample them again."""
    side = tiles.shape[-1]
    u = _draw("resample", tiles.shape[1], 2, **keys)
    maps = _resamplings(side, max(1, round(changes.resample_to * side)), tiles.device)
    chosen = maps[(u[..., 1] * _SIZES).long()].to(tiles.dtype)  # (B, N, p, p)
    coarse = torch.einsum("bnij,bncjk,bnlk->bncil", chosen, tiles, chosen)
    return torch.where((u[..., 0] < changes.resample)[..., None, None, None], coarse, tiles)


def _drop_channels(tiles: Tensor, changes: TileChanges, **keys: Any) -> Tensor:
    """Replace channels of some tiles by the mean colour, or by noise much fainter than what is
    left."""
    num_tiles, side = tiles.shape[1], tiles.shape[-1]
    u = _draw("channel_drop", num_tiles, 4, **keys)
    order = u[..., 1:].argsort(dim=-1, stable=True)
    dropped = (order < changes.num_dropped) & (u[..., :1] < changes.channel_drop)  # (B, N, 3)
    fill = torch.zeros_like(tiles)
    if changes.dropped_to == "noise":
        noise = _draw("noise", num_tiles, 3 * side**2, **keys).unflatten(2, (3, side, side))
        deviation = tiles.float().std(dim=(-2, -1)).masked_fill(dropped, 0).amax(-1)  # (B, N)
        spread = 12**0.5 * _NOISE * deviation[..., None, None, None]
        fill = ((noise - 0.5) * spread).to(tiles.dtype)
    return torch.where(dropped[..., None, None], fill, tiles)
