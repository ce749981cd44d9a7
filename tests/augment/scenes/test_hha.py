"""Depth of planes whose geometry is known, seen by a camera that is known."""

import math

import pytest
import torch
from torch import Tensor

from augment.scenes.hha import estimate_gravity, hha, hha_image, surface_normals

HEIGHT = 96
WIDTH = 128
CAMERA = torch.tensor([[120.0, 110.0, 60.0, 40.0]])
UP = torch.tensor([0.0, -1.0, 0.0])
DOWN = -UP


def rays(camera: Tensor = CAMERA) -> Tensor:
    fx, fy, cx, cy = camera[0].tolist()
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    x = (columns - cx) / fx
    y = (rows - cy) / fy
    return torch.stack([x, y, torch.ones_like(x)])


def plane(normal: Tensor, distance: float) -> Tensor:
    """Depth of the points with normal . point = -distance, (1, H, W); 0 where none is in front."""
    towards = -torch.einsum("c,chw->hw", normal, rays())
    return torch.where(towards > 1e-3, distance / towards.clamp(min=1e-3), 0).unsqueeze(0)


def unit(*values: float) -> Tensor:
    return torch.nn.functional.normalize(torch.tensor(values, dtype=torch.float32), dim=0)


def nearest_of(*depths: Tensor) -> Tensor:
    """See several surfaces, the nearest of which hides the others."""
    depth = torch.stack([torch.where(one > 0, one, torch.inf) for one in depths]).amin(0)
    return torch.where(depth < 50, depth, 0)


def room(tilt: float = 0.0) -> tuple[Tensor, Tensor]:
    """See a floor 1.5 m below, a wall 4 m ahead and one 1 m to the left, by a camera whose nose is
    up by `tilt` degrees; returns the depth and which surface is seen."""
    turn = math.radians(tilt)
    up = torch.tensor([0.0, -math.cos(turn), math.sin(turn)])
    facing = torch.tensor([0.0, -math.sin(turn), -math.cos(turn)])
    surfaces = [plane(up, 1.5), plane(facing, 4.0), plane(torch.tensor([1.0, 0.0, 0.0]), 1.0)]
    depth = nearest_of(*surfaces)
    seen = torch.stack([torch.where(one > 0, one, torch.inf) for one in surfaces]).argmin(0)
    return depth, seen


def inside(seen: Tensor, surface: int, margin: int = 4) -> Tensor:
    """Tell which pixels have nothing but this surface around them."""
    other = (seen != surface).float()
    near = torch.nn.functional.max_pool2d(other, 2 * margin + 1, 1, margin)
    return (near == 0) & (seen == surface)


@pytest.mark.parametrize(
    "normal",
    [unit(0, -1, 0), unit(0, 0, -1), unit(0.3, -0.5, -0.8), unit(-0.7, 0.2, -0.7)],
    ids=["floor", "wall", "slanted", "slanted left"],
)
def test_normals_of_a_plane_are_its_own_everywhere(normal: Tensor) -> None:
    depth = plane(normal, 1.7)
    depth = torch.where(depth < 30, depth, 0)
    found = surface_normals(depth, CAMERA)[0]
    known = torch.isfinite(found[0])
    assert known.float().mean() > 0.3
    angle = torch.rad2deg(torch.acos((found * normal.view(3, 1, 1)).sum(0).clamp(-1, 1)))
    assert angle[known].max() < 0.1


@pytest.mark.parametrize(
    ("normal", "angle"),
    [
        (unit(0, -1, 0), 0.0),
        (unit(0, 0, -1), 90.0),
        (unit(0, -1, -1), 45.0),
        (unit(0, 1, 0), 180.0),
    ],
    ids=["floor", "wall", "ramp", "ceiling"],
)
def test_angle_is_that_with_straight_up(normal: Tensor, angle: float) -> None:
    depth = plane(normal, 1.5)
    depth = torch.where(depth < 30, depth, 0)
    found = hha(depth, CAMERA, gravity=DOWN.unsqueeze(0))[0, 2]
    known = torch.isfinite(found)
    assert known.any()
    torch.testing.assert_close(found[known], torch.full_like(found[known], angle), atol=0.1, rtol=0)


def test_disparity_is_one_over_depth() -> None:
    depth, _ = room()
    torch.testing.assert_close(hha(depth, CAMERA)[0, 0], 1 / depth[0])


def test_heights_count_from_the_floor() -> None:
    depth, seen = room()
    height = hha(depth, CAMERA, gravity=DOWN.unsqueeze(0))[0, 1]
    points = -rays()[1] * depth[0]
    torch.testing.assert_close(height, points + 1.5, atol=1e-4, rtol=0)
    assert height[seen[0] == 0].abs().max() < 1e-4


@pytest.mark.parametrize("tilt", [-20.0, 0.0, 12.0, 30.0])
def test_gravity_is_found_when_the_camera_is_tilted(tilt: float) -> None:
    depth, seen = room(tilt)
    turn = math.radians(tilt)
    down = torch.tensor([0.0, math.cos(turn), -math.sin(turn)])
    found = estimate_gravity(surface_normals(depth, CAMERA))[0]
    assert torch.rad2deg(torch.acos((found @ down).clamp(-1, 1))) < 0.5
    channels = hha(depth, CAMERA)[0]
    told = 0
    for surface, angle in enumerate((0.0, 90.0, 90.0)):
        where = inside(seen, surface)[0] & torch.isfinite(channels[2])
        if where.any():
            told += 1
            assert (channels[2][where] - angle).abs().max() < 0.6
            height = channels[1][where]
            assert surface or height.abs().max() < 0.05
    assert told >= 2


def test_one_wall_alone_leaves_gravity_straight_down() -> None:
    normals = surface_normals(plane(unit(0.3, 0, -1), 3.0), CAMERA)
    torch.testing.assert_close(estimate_gravity(normals)[0], DOWN, atol=1e-3, rtol=0)


def test_unknown_depth_is_unknown_and_changes_nothing_else_on_a_plane() -> None:
    depth = plane(unit(0.3, -0.5, -0.8), 1.7)
    holes = depth.clone()
    holes[:, 10:14, 20:40] = 0
    holes[:, 30, ::3] = torch.nan
    gone = torch.isnan(holes) | (holes == 0)
    given = DOWN.unsqueeze(0)
    whole = hha(depth, CAMERA, gravity=given)
    found = hha(holes, CAMERA, gravity=given)
    assert found[:, :, gone[0]].isnan().all()
    angle = (found - whole)[0, 2]
    rest = torch.isfinite(angle)
    assert rest[~gone[0] & torch.isfinite(whole[0, 2])].float().mean() > 0.98
    assert angle[rest].abs().max() < 0.1


def test_a_surface_is_not_fitted_across_an_edge() -> None:
    depth = torch.full((1, HEIGHT, WIDTH), 4.0)
    depth[:, 24:72, 40:88] = 2.0
    angle = hha(depth, CAMERA, gravity=DOWN.unsqueeze(0))[0, 2]
    torch.testing.assert_close(angle, torch.full_like(angle, 90.0), atol=0.1, rtol=0)


def test_images_of_a_batch_do_not_depend_on_each_other() -> None:
    depths = [room(tilt)[0] for tilt in (0.0, 25.0)]
    together = hha(torch.cat(depths), CAMERA.expand(2, 4))
    alone = torch.cat([hha(one, CAMERA) for one in depths])
    torch.testing.assert_close(together, alone, equal_nan=True, atol=1e-3, rtol=1e-4)


def test_an_image_of_it_is_in_range_and_black_where_unknown_alone() -> None:
    depth, _ = room()
    depth[:, :5] = 0
    channels = hha(depth, CAMERA)
    image = hha_image(channels)
    assert (image[:, :, :5] == 0).all()
    known = image[torch.isfinite(channels)]
    assert known.min() * 255 > 0.99 and known.max() <= 1
    level = hha_image(torch.tensor([2.0, 3.0, 90.0]).view(3, 1, 1)).flatten()
    torch.testing.assert_close(level, torch.tensor([1.0, 1.0, 128 / 255]))


def test_no_depth_at_all_is_no_fault() -> None:
    assert hha(torch.zeros(1, 8, 8), CAMERA).isnan().all()


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"depth must be \(B, H, W\)"):
        hha(torch.ones(4, 4), CAMERA)
    with pytest.raises(ValueError, match=r"intrinsics must be \(1, 4\)"):
        hha(torch.ones(1, 4, 4), torch.eye(3))
    with pytest.raises(ValueError, match="above 0"):
        hha(torch.ones(1, 4, 4), torch.zeros(1, 4))
    with pytest.raises(ValueError, match="gravity must be"):
        hha(torch.ones(1, 4, 4), CAMERA, gravity=torch.ones(3))
