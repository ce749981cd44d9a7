"""Where rays meet the surfaces of a scene, exactly."""

import torch
from torch import Tensor
from torch.nn import functional

from augment.scenes.world import NUM_BODIES, World

_NEAREST = 1e-3  # a ray does not meet the surface that it leaves
_TINY = 1e-9


def meet_bodies(world: World, origin: Tensor, direction: Tensor) -> Tensor:
    """Return how far along each ray each body is met, infinite where it is missed.

    Args:
        world: B scenes.
        origin: (B, P, 3), where rays begin.
        direction: (B, P, 3), not normalised: the result counts in its length.

    Returns:
        (B, K, P).
    """
    begin = _own(world, origin.unsqueeze(1) - world.centre.unsqueeze(2))  # (B, K, P, 3)
    along = _own(world, direction.unsqueeze(1))
    met = torch.where(world.kind.unsqueeze(2), _box(begin, along), _sphere(begin, along))
    return met.where(world.there.unsqueeze(2), torch.inf)


def meet_planes(world: World, origin: Tensor, direction: Tensor) -> Tensor:
    """Return how far along each ray floor and wall are met, (B, 2, P); infinite where not."""
    speed = torch.einsum("bmc,bpc->bmp", world.normal, direction)
    gap = world.offset.unsqueeze(2) - torch.einsum("bmc,bpc->bmp", world.normal, origin)
    met = gap / torch.where(speed.abs() < _TINY, _TINY, speed)
    return met.where(met > _NEAREST, torch.inf)


def normals_at(world: World, surface: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
    """Return the normals of points on known surfaces, and the points in their surface's own axes.

    Args:
        world: B scenes.
        surface: (B, P) int64, which surface a point lies on.
        point: (B, P, 3).

    Returns:
        Unit normals (B, P, 3), and coordinates (B, P, 3) in units of length that move with a body.
    """
    body = surface.clamp(max=NUM_BODIES - 1)
    turn = of_surface(world.turn.flatten(2), body).unflatten(2, (3, 3))  # (B, P, 3, 3)
    radii = of_surface(world.radii, body)
    centre = of_surface(world.centre, body)
    own = torch.einsum("bpji,bpj->bpi", turn, point - centre)
    unit = own / radii
    face = functional.one_hot(unit.abs().argmax(2), 3) * unit.sign()
    is_box = of_surface(world.kind.unsqueeze(2), body)
    inward = torch.where(is_box, face.to(unit.dtype), unit / radii)
    normal = functional.normalize(torch.einsum("bpij,bpj->bpi", turn, inward), dim=2)
    plane = (surface - NUM_BODIES).clamp(min=0)
    flat = (surface >= NUM_BODIES).unsqueeze(2)
    return torch.where(flat, of_surface(world.normal, plane), normal), torch.where(flat, point, own)


def of_surface(values: Tensor, surface: Tensor) -> Tensor:
    """Look up the values (B, N, C) of each point's surface (B, P): (B, P, C)."""
    return values.gather(1, surface.unsqueeze(2).expand(-1, -1, values.shape[2]))


def _own(world: World, vectors: Tensor) -> Tensor:
    """Turn vectors (B, 1 or K, P, 3) into bodies' own axes, where each body is a unit sphere or
    cube."""
    expanded = vectors.expand(-1, world.turn.shape[1], -1, -1)
    return torch.einsum("bkji,bkpj->bkpi", world.turn, expanded) / world.radii.unsqueeze(2)


def _sphere(begin: Tensor, along: Tensor) -> Tensor:
    a = along.square().sum(3).clamp(min=_TINY)
    b = (begin * along).sum(3)
    c = begin.square().sum(3) - 1
    under = b.square() - a * c
    root = under.clamp(min=0).sqrt()
    first = (-b - root) / a
    return first.where((under > 0) & (first > _NEAREST), torch.inf)


def _box(begin: Tensor, along: Tensor) -> Tensor:
    steady = torch.where(along.abs() < _TINY, _TINY, along)
    one = (-1 - begin) / steady
    other = (1 - begin) / steady
    enter = torch.minimum(one, other).amax(3)
    leave = torch.maximum(one, other).amin(3)
    return enter.where((enter < leave) & (enter > _NEAREST), torch.inf)
