"""Pictures of drawn scenes with what is true of them: depth, normals and instance contours.

Every pixel's ray is met with every surface at once, on any device, so that the maps are exact and a
batch costs a few tensor operations. Colours are averaged over a finer grid of rays; maps are those
of the ray through the pixel's middle.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from augment.scenes.surfaces import meet_bodies, meet_planes, normals_at, of_surface
from augment.scenes.world import World, draw_world

_MOST_RAYS = 1 << 19  # at once: each takes about 2 kB
_FAR = 20.0  # where haze has taken a seventh of the light, about
_SHINE = 24.0  # exponent of a highlight
_HAZE = (0.72, 0.76, 0.80)
_SHADOW = 0.35  # share of the light that reaches into shadows


class Rendered(NamedTuple):
    """Pictures and their truth.

    Attributes:
        images: (B, 3, S, S) in [0, 1], RGB.
        depth: (B, 1, S, S), along the camera's axis, in units of length; finite everywhere.
        normals: (B, 3, S, S), unit vectors in the camera's axes; they face the camera.
        contours: (B, 1, S, S) bool, true where a neighbour above, below, left or right shows
            another surface.
        surfaces: (B, S, S) int64, which surface is seen: the instance.
    """

    images: Tensor
    depth: Tensor
    normals: Tensor
    contours: Tensor
    surfaces: Tensor


@torch.no_grad()
def render(*, seed: int, scene: Tensor, size: int, time: float = 0.0, finer: int = 2) -> Rendered:
    """Render scenes by their numbers.

    A picture is a function of its arguments alone, not of the others in the batch.

    Args:
        seed: Of all scenes.
        scene: (B,) int64, which scenes.
        size: Side S of the pictures, px.
        time: The moment of their motion.
        finer: Rays a pixel and side whose colours are averaged.
    """
    at_once = max(1, _MOST_RAYS // (size * finer) ** 2)
    # half precision would miss the surfaces
    with torch.autocast(scene.device.type, enabled=False):
        parts = [
            _render(draw_world(seed=seed, scene=some, time=time), size, finer)
            for some in scene.split(at_once)
        ]
    return Rendered(*(torch.cat(values) for values in zip(*parts, strict=True)))


def _render(world: World, size: int, finer: int) -> Rendered:
    direction = _rays(world, size)
    depth, surface, normal, own = _seen(world, direction)
    if finer > 1:
        fine = _rays(world, size * finer)
        images = _picture(_colour(world, fine, *_seen(world, fine)), size * finer)
        images = functional.avg_pool2d(images, finer)
    else:
        images = _picture(_colour(world, direction, depth, surface, normal, own), size)
    surfaces = surface.view(-1, size, size)
    return Rendered(
        images=images.clamp(0, 1),
        depth=depth.view(-1, 1, size, size),
        normals=_picture(normal, size),
        contours=contours_of(surfaces),
        surfaces=surfaces,
    )


def contours_of(surfaces: Tensor) -> Tensor:
    """Find where instances end: pixels (B, 1, S, S) with a neighbour of another one."""
    edge = torch.zeros_like(surfaces, dtype=torch.bool)
    for axis in (1, 2):
        length = surfaces.shape[axis] - 1
        differs = surfaces.narrow(axis, 0, length) != surfaces.narrow(axis, 1, length)
        edge.narrow(axis, 0, length).logical_or_(differs)
        edge.narrow(axis, 1, length).logical_or_(differs)
    return edge.unsqueeze(1)


def _rays(world: World, size: int) -> Tensor:
    """Return the ray through the middle of each pixel, (B, S * S, 3), one unit deep."""
    middle = (2 * torch.arange(size, device=world.focal.device) + 1) / size - 1
    y, x = torch.meshgrid(middle, middle, indexing="ij")
    place = torch.stack([x.flatten(), y.flatten()], dim=1) / world.focal.view(-1, 1, 1)
    return functional.pad(place, (0, 1), value=1.0)


def _seen(world: World, direction: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return of each ray the depth (B, P), the surface, its normal and own coordinates."""
    origin = torch.zeros_like(direction)
    bodies = meet_bodies(world, origin, direction)
    planes = meet_planes(world, origin, direction)
    depth, surface = torch.cat([bodies, planes], dim=1).min(dim=1)
    normal, own = normals_at(world, surface, direction * depth.unsqueeze(2))
    return depth, surface, normal, own


def _colour(
    world: World, direction: Tensor, depth: Tensor, surface: Tensor, normal: Tensor, own: Tensor
) -> Tensor:
    """Light what rays see, (B, P, 3)."""
    mixed = _pattern(world, surface, own).unsqueeze(2)
    colours = of_surface(world.colours.flatten(2), surface)
    albedo = torch.lerp(colours[..., :3], colours[..., 3:], mixed)
    point = direction * depth.unsqueeze(2)
    light = world.light.unsqueeze(1)
    above = point + 2e-3 * normal
    shaded = meet_bodies(world, above, light.expand_as(above)).isfinite().any(1)
    reaches = torch.where(shaded, _SHADOW, 1.0)
    facing = (normal * light).sum(2).clamp(min=0) * reaches
    half = functional.normalize(light - functional.normalize(direction, dim=2), dim=2)
    gloss = of_surface(world.gloss.unsqueeze(2), surface).squeeze(2)
    highlight = gloss * reaches * (normal * half).sum(2).clamp(min=0) ** _SHINE
    ambient = world.ambient.view(-1, 1)
    lit = (ambient + (1 - ambient) * facing).unsqueeze(2) * albedo + highlight.unsqueeze(2) * 0.6
    lit = lit * world.light_colour.unsqueeze(1)
    haze = 1 - torch.exp(-depth / _FAR * 0.5).unsqueeze(2)
    return torch.lerp(lit, lit.new_tensor(_HAZE).expand_as(lit), haze)


def _pattern(world: World, surface: Tensor, own: Tensor) -> Tensor:
    """Return how much of its second colour each point shows, (B, P) in [0, 1]: plain, stripes,
    checks, clouds, spots or grain."""
    waves = of_surface(world.waves.flatten(2), surface).unflatten(2, (3, 3))
    angles = torch.einsum("bpij,bpj->bpi", waves, own) + of_surface(world.phases, surface)
    sines = angles.sin()
    first = sines[..., 0]
    together = sines.sum(2)
    bent = angles + 1.5 * sines.roll(1, 2)
    grain = torch.zeros_like(first)
    for octave in range(4):
        grain = grain + (2.0**octave * bent).sin().sum(2) / 2**octave
    kinds = torch.stack(
        [
            0.15 + 0.1 * together / 3,
            (8 * first).sigmoid(),
            (12 * sines.prod(2)).sigmoid(),
            0.5 + together / 6,
            (10 * (together - 1)).sigmoid(),
            0.5 + grain / 9,
        ],
        dim=2,
    )
    pattern = of_surface(world.pattern.unsqueeze(2), surface)
    return kinds.gather(2, pattern).squeeze(2).clamp(0, 1)


def _picture(values: Tensor, size: int) -> Tensor:
    """Lay values of pixels (B, S * S, C) out as (B, C, S, S)."""
    picture: Tensor = values.transpose(1, 2).unflatten(2, (size, size))
    return picture
