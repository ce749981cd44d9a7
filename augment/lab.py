"""CIE Lab: lightness apart from colour, in steps that look alike.

L is lightness, 0 to 100; a goes from green to red, b from blue to yellow, both 0 where there is no
colour. sRGB under D65, by Kornia, which agrees with scikit-image; in float32 also where autocast
would round.
"""

from functools import lru_cache

import torch
from torch import Tensor


def rgb_to_lab(images: Tensor) -> Tensor:
    """Convert sRGB (..., 3, H, W) in [0, 1] to Lab, float32; differentiable."""
    from kornia.color import rgb_to_lab as to_lab  # here, as Kornia takes seconds to import

    with torch.autocast(images.device.type, enabled=False):
        lab: Tensor = to_lab(images.float())
    return lab


def lab_to_rgb(images: Tensor) -> Tensor:
    """Convert Lab (..., 3, H, W) to sRGB, float32, differentiable; what no screen shows is clipped
    to [0, 1]."""
    from kornia.color import lab_to_rgb as to_rgb

    with torch.autocast(images.device.type, enabled=False):
        rgb: Tensor = to_rgb(images.float())
    return rgb


@lru_cache(maxsize=2)
def gamut_points(step: int = 10) -> Tensor:
    """List the points of a grid over a and b that surround the colours of sRGB.

    A point is listed where it is a corner of a square of the grid in which some colour of 8-bit
    sRGB lies, whatever its lightness: each colour then has its four corners in the list. On a grid
    of 10 these are 309 points; the list of arXiv:1603.08511, whose rule is not told, has 313.

    Args:
        step: Distance of neighbouring points.

    Returns:
        (Q, 2) float32, a and b, in ascending order.
    """
    levels = torch.arange(256) / 255
    first, second = torch.meshgrid(levels, levels, indexing="ij")
    # Along a line of equal a and b one leaves the cube of colours through its surface.
    faces = []
    for channel in range(3):
        for bound in (0.0, 1.0):
            face = [first, second]
            face.insert(channel, torch.full_like(first, bound))
            faces.append(torch.stack(face))
    ab = rgb_to_lab(torch.stack(faces))[:, 1:]  # (6, 2, 256, 256)
    lower = (ab.movedim(1, -1).reshape(-1, 2) / step).floor().unique(dim=0)
    corners = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    points: Tensor = (lower.unsqueeze(1) + corners).flatten(0, 1).unique(dim=0) * step
    return points.to(torch.float32)
