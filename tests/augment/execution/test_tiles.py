"""Tiles of a view: where they lie, how each changes, and that each guard takes its trace away."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from augment.execution.tiles import (
    TileChanges,
    cut_tiles,
    join_tiles,
    layout,
    normalise,
    resampling,
)
from augment.rng import uniform

NOTHING = TileChanges()


def keys(count: int, epoch: int = 0) -> dict[str, Any]:
    return {"seed": 0, "epoch": torch.full((count,), epoch), "sample_id": torch.arange(count) + 5}


def cut(images: Tensor, side: int, changes: TileChanges, epoch: int = 0) -> Tensor:
    place = layout(images.shape[-1], side, changes)
    return cut_tiles(images, place, changes, **keys(len(images), epoch))


def noise(count: int, size: int) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_tiles_without_changes_are_the_image_in_raster_order() -> None:
    images = noise(2, 12)
    tiles = cut(images, 4, NOTHING)
    assert torch.equal(tiles[1, 5], images[1, :, 4:8, 8:12])
    assert torch.equal(join_tiles(tiles, layout(12, 4, NOTHING), 0.0), images)


def test_gap_and_jitter_place_every_tile_by_itself_and_within_the_view() -> None:
    changes = TileChanges(gap=0.5, jitter=0.25)
    place = layout(20, 4, changes)
    assert (place.pitch, place.first, place.jitter) == (6, 2, 1)
    columns = torch.arange(20.0).expand(40, 3, 20, 20)
    left = cut_tiles(columns, place, changes, **keys(40))[:, :, 0, 0, 0]  # (40, 9)
    moved = left - torch.tensor([2.0, 8.0, 14.0]).repeat(3)
    assert set(moved.unique().tolist()) == {-1.0, 0.0, 1.0}
    assert len(moved.unique(dim=1).T) == 9  # no two tiles move alike
    again = cut_tiles(columns[:3], place, changes, **keys(3))[:, :, 0, 0, 0]
    assert torch.equal(again, left[:3])  # whatever else is in the batch
    assert not torch.equal(cut(columns, 4, changes, epoch=1)[:, :, 0, 0, 0], left)


def test_tiles_that_do_not_fit_are_refused_with_the_size_they_need() -> None:
    with pytest.raises(ValueError, match=r"need views\.size=66, got 64: lower encoder\.patch_size"):
        layout(64, 16, TileChanges(gap=0.5, jitter=1 / 16))


def test_some_tiles_are_resampled_and_lose_what_is_fine() -> None:
    images = noise(50, 24)
    plain = cut(images, 8, NOTHING)
    coarse = cut(images, 8, TileChanges(resample=0.5, resample_to=0.25))
    same = (plain == coarse).flatten(2).all(-1)
    assert 0.4 < same.float().mean() < 0.6
    rough = coarse.diff(dim=-1).abs().mean(dim=(-3, -2, -1))
    assert rough[~same].mean() < 0.7 * rough[same].mean()


def test_a_resampling_is_that_of_interpolate() -> None:
    square = noise(1, 9)[:, :1]
    (line,) = resampling(9, (4,))
    small = functional.interpolate(square, size=4, mode="area")
    expected = functional.interpolate(small, size=9, mode="bilinear")
    torch.testing.assert_close(line @ square @ line.T, expected)


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("to", ["noise", "mean"])
def test_dropped_channels_are_faint_noise_or_the_mean(number: int, to: str) -> None:
    images = noise(20, 24)
    changes = TileChanges(channel_drop=0.5, num_dropped=number, dropped_to=to)  # type: ignore[arg-type]
    tiles = cut(images, 8, changes)
    left = tiles.std(dim=(-2, -1)) > 0.1
    assert set(left.sum(-1).unique().tolist()) == {3, 3 - number}
    faint = tiles.std(dim=(-2, -1))[~left]
    assert faint.max() < 0.03 and (faint.max() == 0) == (to == "mean")
    assert len(left[left.sum(-1) < 3].unique(dim=0)) == 3  # every channel, or pair, is drawn


def test_a_normalised_tile_tells_nothing_of_a_ramp_and_a_flat_one_is_zero() -> None:
    ramp = (
        torch.linspace(-1, 1, 24).expand(1, 3, 24, 24)
        * torch.tensor([1.0, 2.0, 0.5])[:, None, None]
    )
    plain = cut(ramp, 8, NOTHING).mean(dim=(-2, -1))
    assert plain[0, 3, 0] < plain[0, 4, 0] < plain[0, 5, 0]
    tiles = cut(ramp, 8, TileChanges(normalise=True))
    torch.testing.assert_close(tiles[0], tiles[0, :1].expand(9, -1, -1, -1), rtol=1e-3, atol=1e-3)
    assert torch.equal(normalise(torch.full((1, 3, 4, 4), 7.0)), torch.zeros(1, 3, 4, 4))


def best_edge(tiles: Tensor) -> Tensor:
    """Tell by the px at the border which of four tiles lies to the right of the middle one."""
    edge = tiles[:, 4, :, :, -1].flatten(1)  # (B, E)
    candidates = tiles[:, [1, 3, 5, 7], :, :, 0].flatten(2)  # (B, 4, E)
    return (candidates - edge.unsqueeze(1)).square().sum(-1).argmin(-1)


def test_what_goes_on_over_a_border_tells_neighbours_without_a_gap_and_not_with_one() -> None:
    blurred = functional.avg_pool2d(noise(200, 40), 3, stride=1)  # (200, 3, 38, 38)
    told = best_edge(cut(blurred, 8, NOTHING)) == 2
    guarded = best_edge(cut(blurred, 8, TileChanges(gap=0.5))) == 2
    assert told.float().mean() > 0.9  # of four tiles
    assert guarded.float().mean() < 0.4


def aberrant(count: int, size: int, side: int) -> Tensor:
    """Grey noise, whose red is moved towards the corner of each of nine tiles by one px."""
    grey = noise(count, size)[:, :1].repeat(1, 3, 1, 1)
    red = grey[:, 0].clone()
    for row in range(3):
        for column in range(3):
            rows, columns = (slice(side * at, side * at + side) for at in (row, column))
            moved = grey[:, 0].roll((row - 1, column - 1), dims=(1, 2))
            red[:, rows, columns] = moved[:, rows, columns]
    return torch.cat([red.unsqueeze(1), grey[:, 1:]], dim=1)


def place_by_colours(tiles: Tensor) -> Tensor:
    """Tell the place of tiles (B, 9, 3, p, p) by how red lies beside green."""
    red, green = (tiles[:, :, channel, 2:-2, 2:-2] for channel in (0, 1))
    scores = []
    for index in range(9):
        row, column = index // 3 - 1, index % 3 - 1
        moved = tiles[:, :, 1].roll((row, column), dims=(-2, -1))[:, :, 2:-2, 2:-2]
        scores.append((red * moved).sum((-2, -1)) / (green.square().sum((-2, -1)) + 1e-6))
    return torch.stack(scores, dim=-1).argmax(-1)


@pytest.mark.parametrize("guard", [{"channel_drop": 1.0}, {"channel_jitter": 3}])
def test_colours_moved_by_a_lens_tell_the_place_and_with_a_guard_they_hardly_do(
    guard: dict[str, Any],
) -> None:
    images = aberrant(40, 36, 12)
    right = torch.arange(9)
    told = (place_by_colours(cut(images, 12, NOTHING)) == right).float().mean()
    guarded = (place_by_colours(cut(images, 12, TileChanges(**guard))) == right).float().mean()
    assert told > 0.95
    assert guarded < 0.35  # 1 / 9 at chance; two of three pairs of drawn channels lose red


def test_draws_of_tiles_are_those_of_the_project() -> None:
    changes = TileChanges(jitter=0.5)
    place = layout(16, 4, changes)
    columns = torch.arange(16.0).expand(2, 3, 16, 16)
    left = cut_tiles(columns, place, changes, **keys(2))[:, :, 0, 0, 0]
    u = uniform(18, view=0, op="tile.jitter", **keys(2)).view(2, 9, 2)[..., 1]
    assert torch.equal(left, place.first + 4.0 * (torch.arange(9) % 3) + (u * 5).floor() - 2)
