"""Rendered scenes: their maps are true, and a scene is a function of its number and the moment."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from augment.scenes.renderer import Rendered, contours_of, render
from augment.scenes.surfaces import normals_at
from augment.scenes.world import NUM_BODIES, draw_world

SIZE = 24
NUM = 16


@pytest.fixture(scope="module")
def made() -> Rendered:
    return render(seed=0, scene=torch.arange(NUM), size=SIZE)


def rays() -> Tensor:
    """The pixels' rays in a camera of focal length 1, (S * S, 2)."""
    middle = (2 * torch.arange(SIZE) + 1) / SIZE - 1
    y, x = torch.meshgrid(middle, middle, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1)


def points(made: Rendered) -> Tensor:
    """Where pixels lie by their depth, (B, S, S, 3)."""
    focal = draw_world(seed=0, scene=torch.arange(NUM)).focal
    place = rays() / focal.view(-1, 1, 1)
    depth = made.depth.flatten(1).unsqueeze(2)
    return torch.cat([place * depth, depth], dim=2).unflatten(1, (SIZE, SIZE))


def test_every_pixels_depth_lies_on_the_surface_that_it_shows(made: Rendered) -> None:
    world = draw_world(seed=0, scene=torch.arange(NUM))
    point = points(made).flatten(1, 2)
    surface = made.surfaces.flatten(1)
    found = set()
    for scene in range(NUM):
        for number in surface[scene].unique().tolist():
            here = point[scene, surface[scene] == number]
            if number >= NUM_BODIES:
                plane = number - NUM_BODIES
                gap = here @ world.normal[scene, plane] - world.offset[scene, plane]
            else:
                own = (here - world.centre[scene, number]) @ world.turn[scene, number]
                unit = own / world.radii[scene, number]
                box = bool(world.kind[scene, number])
                gap = (unit.abs().amax(1) if box else unit.norm(dim=1)) - 1
                found.add(box)
            assert gap.abs().max() < 1e-4
    assert found == {True, False}


def test_normals_are_those_of_flat_surfaces_by_their_neighbours_and_face_the_camera(
    made: Rendered,
) -> None:
    point = points(made)
    right = point[:, :-1, 1:] - point[:, :-1, :-1]
    down = point[:, 1:, :-1] - point[:, :-1, :-1]
    flat = functional.normalize(torch.cross(down, right, dim=3), dim=3)
    normals = made.normals.permute(0, 2, 3, 1)
    torch.testing.assert_close(normals.norm(dim=3), torch.ones(NUM, SIZE, SIZE))
    assert ((normals * point).sum(3) <= 1e-4).all()
    is_plane = made.surfaces >= NUM_BODIES
    whole = is_plane[:, :-1, :-1] & ~made.contours[:, 0, :-1, :-1]
    torch.testing.assert_close(flat[whole], normals[:, :-1, :-1][whole], rtol=0, atol=2e-3)


def test_the_normal_of_an_ellipsoid_is_the_gradient_of_its_equation() -> None:
    world = draw_world(seed=1, scene=torch.arange(3))
    world = world._replace(kind=torch.zeros_like(world.kind))
    unit = functional.normalize(torch.randn(3, 5, 3), dim=2)
    own = unit * world.radii[:, :1]
    point = torch.einsum("bij,bpj->bpi", world.turn[:, 0], own) + world.centre[:, :1]
    point.requires_grad_()
    back = torch.einsum("bji,bpj->bpi", world.turn[:, 0], point - world.centre[:, :1])
    (back / world.radii[:, :1]).square().sum().backward()
    normal, found = normals_at(world, torch.zeros(3, 5, dtype=torch.int64), point.detach())
    torch.testing.assert_close(normal, functional.normalize(point.grad, dim=2))
    torch.testing.assert_close(found, own, rtol=1e-4, atol=1e-5)


def test_contours_are_where_a_neighbour_is_another_surface_by_a_loop(made: Rendered) -> None:
    surfaces = made.surfaces[0]
    assert torch.equal(contours_of(made.surfaces), made.contours)
    for row in range(SIZE):
        for column in range(SIZE):
            near = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
            inside = [(y, x) for y, x in near if 0 <= y < SIZE and 0 <= x < SIZE]
            edge = any(surfaces[y, x] != surfaces[row, column] for y, x in inside)
            assert bool(made.contours[0, 0, row, column]) == edge


def test_a_scene_is_the_same_in_any_batch_and_another_seed_or_moment_is_another_picture(
    made: Rendered,
) -> None:
    alone = render(seed=0, scene=torch.tensor([5]), size=SIZE)
    torch.testing.assert_close(alone.images[0], made.images[5], rtol=0, atol=1e-4)
    assert torch.equal(alone.surfaces[0], made.surfaces[5])
    other = render(seed=1, scene=torch.arange(NUM), size=SIZE)
    assert (other.images - made.images).abs().mean() > 0.05
    later = render(seed=0, scene=torch.arange(NUM), size=SIZE, time=0.5)
    moved = (later.images - made.images).abs().flatten(1).mean(1)
    assert (moved > 0.01).all()
    a_little = render(seed=0, scene=torch.arange(NUM), size=SIZE, time=0.01)
    assert ((a_little.images - made.images).abs().flatten(1).mean(1) < moved).all()


def test_pictures_are_varied_and_everything_is_seen_at_a_finite_depth(made: Rendered) -> None:
    assert made.images.min() >= 0 and made.images.max() <= 1
    assert made.depth.isfinite().all() and made.depth.min() > 0.5
    assert made.images.mean((1, 2, 3)).std() > 0.03 and made.images.std((2, 3)).mean() > 0.08
    assert made.contours.float().mean() > 0.03
