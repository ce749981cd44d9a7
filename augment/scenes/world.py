"""What a rendered scene consists of: a few bodies before a floor and a wall, drawn by key.

Lengths are in units of about a hand, the camera looks along +z from the origin, x goes right and y
down as in an image.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from augment import rng

NUM_BODIES = 7
NUM_SURFACES = NUM_BODIES + 2  # and floor and wall
NUM_PATTERNS = 6
_OF_BODY = 40
_OF_SCENE = 64
_NUMBERS = _OF_SCENE + NUM_SURFACES * _OF_BODY


class World(NamedTuple):
    """B scenes at one moment; K bodies, then floor and wall, make N surfaces.

    Attributes:
        kind: (B, K) bool, true for boxes, false for ellipsoids.
        there: (B, K) bool, false for bodies that a scene has not.
        centre: (B, K, 3).
        radii: (B, K, 3), half axes.
        turn: (B, K, 3, 3), from a body's own axes to the camera's.
        normal: (B, 2, 3) and
        offset: (B, 2): points p of floor and wall have normal . p = offset.
        colours: (B, N, 2, 3) in [0, 1], the two that a pattern mixes.
        pattern: (B, N) int64, which of `NUM_PATTERNS`.
        waves: (B, N, 3, 3), wave vectors of the pattern, radians a unit of length.
        phases: (B, N, 3).
        gloss: (B, N) in [0, 1].
        light: (B, 3), unit vector to the light.
        light_colour: (B, 3), about 1 in full light.
        ambient: (B,), light that comes from everywhere.
        focal: (B,), of the camera, in half sides of the image.
    """

    kind: Tensor
    there: Tensor
    centre: Tensor
    radii: Tensor
    turn: Tensor
    normal: Tensor
    offset: Tensor
    colours: Tensor
    pattern: Tensor
    waves: Tensor
    phases: Tensor
    gloss: Tensor
    light: Tensor
    light_colour: Tensor
    ambient: Tensor
    focal: Tensor


def draw_world(*, seed: int, scene: Tensor, time: float = 0.0) -> World:
    """Draw scenes by their numbers, at a moment of their motion.

    Bodies drift and turn, and the camera drifts, evenly; half of the scenes' bodies stand still.

    Args:
        seed: Of all scenes.
        scene: (B,) int64, which scenes; any integers.
        time: In units in which a body moves by about half its size; 0 is the still image.
    """
    epoch = torch.zeros_like(scene)
    u = rng.uniform(_NUMBERS, seed=seed, epoch=epoch, sample_id=scene, view=0, op="scene")
    whole = u[:, :_OF_SCENE]
    each = u[:, _OF_SCENE:].view(-1, NUM_SURFACES, _OF_BODY)
    body = each[:, :NUM_BODIES]
    camera = _between(whole[:, 0:3], -0.25, 0.25) * time
    radii = _between(body[..., 0:1], 0.35, 1.1) * _between(body[..., 1:4], 0.5, 1.0)
    centre = _centres(body[..., 4:7])
    moves = (body[..., 13:14] > 0.5).to(body.dtype)
    drift = _between(body[..., 7:10], -0.5, 0.5) * moves
    spin = _between(body[..., 10:13], -1.0, 1.0) * moves
    start = _between(body[..., 14:17], -math.pi, math.pi)
    wanted = 2 + (whole[:, 3:4] * (NUM_BODIES - 1)).floor()
    normal, offset = _planes(whole[:, 4:8], camera)
    count = torch.arange(NUM_BODIES, device=u.device)
    return World(
        kind=body[..., 17] < 0.5,
        there=count < wanted,
        centre=centre + drift * time - camera.unsqueeze(1),
        radii=radii,
        turn=_turns(start + spin * time),
        normal=normal,
        offset=offset,
        colours=_colours(each[..., 18:24]),
        pattern=(each[..., 24] * NUM_PATTERNS).long(),
        waves=_waves(each[..., 25:34], each[..., 34:35]),
        phases=2 * math.pi * each[..., 35:38],
        gloss=each[..., 38] ** 2,
        light=_light(whole[:, 8:10]),
        light_colour=_between(whole[:, 10:13], 0.8, 1.15) * _between(whole[:, 15:16], 0.45, 1.25),
        ambient=_between(whole[:, 13], 0.25, 0.5),
        focal=_between(whole[:, 14], 1.1, 1.9),
    )


def _between(u: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * u


def _centres(u: Tensor) -> Tensor:
    """Place bodies in what the camera sees, (B, K, 3)."""
    z = _between(u[..., 2], 3.2, 7.5)
    x = _between(u[..., 0], -0.6, 0.6) * z
    y = _between(u[..., 1], -0.5, 0.45) * z
    return torch.stack([x, y, z], dim=-1)


def _planes(u: Tensor, camera: Tensor) -> tuple[Tensor, Tensor]:
    """Return normals (B, 2, 3) and offsets (B, 2) of floor and wall; both face the camera."""
    tilt = _between(u[:, 0:2], -0.25, 0.25)
    one = torch.ones_like(tilt[:, 0])
    floor = torch.stack([tilt[:, 0] * 0.3, -one, -tilt[:, 0].abs() * 0.4], dim=1)
    wall = torch.stack([tilt[:, 1], 0 * one, -one], dim=1)
    normal = functional.normalize(torch.stack([floor, wall], dim=1), dim=2)
    offset = -torch.stack([_between(u[:, 2], 1.2, 2.2), _between(u[:, 3], 8.0, 12.0)], dim=1)
    return normal, offset - (normal * camera.unsqueeze(1)).sum(2)


def _turns(angles: Tensor) -> Tensor:
    """Return rotation matrices (..., 3, 3) of angles about x, y and z (..., 3), one after the
    other."""
    sin = angles.sin().unbind(-1)
    cos = angles.cos().unbind(-1)
    one = torch.ones_like(sin[0])
    zero = torch.zeros_like(sin[0])
    about_x = [[one, zero, zero], [zero, cos[0], -sin[0]], [zero, sin[0], cos[0]]]
    about_y = [[cos[1], zero, sin[1]], [zero, one, zero], [-sin[1], zero, cos[1]]]
    about_z = [[cos[2], -sin[2], zero], [sin[2], cos[2], zero], [zero, zero, one]]
    x, y, z = (
        torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
        for rows in (about_x, about_y, about_z)
    )
    return z @ y @ x


def _colours(u: Tensor) -> Tensor:
    """Draw two colours (B, N, 2, 3): the second of another brightness than the first."""
    first = u[..., :3]
    second = u[..., 3:]
    darker = torch.where(first.mean(-1, keepdim=True) > 0.5, 0.55 * second, 0.45 + 0.55 * second)
    return torch.stack([first, darker], dim=-2).clamp(0.02, 0.98)


def _waves(u: Tensor, scale: Tensor) -> Tensor:
    """Draw three wave vectors (B, N, 3, 3) of about one length."""
    direction = functional.normalize(2 * u.unflatten(-1, (3, 3)) - 1 + 1e-6, dim=-1)
    return direction * (4.0 * 4.0**scale).unsqueeze(-1)


def _light(u: Tensor) -> Tensor:
    """Point to a light above and behind the camera, (B, 3)."""
    side = _between(u[:, 0], -1.0, 1.0)
    high = _between(u[:, 1], 0.6, 1.6)
    return functional.normalize(torch.stack([side, -high, -torch.ones_like(side)], dim=1), dim=1)
