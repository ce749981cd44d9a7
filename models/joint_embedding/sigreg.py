"""Sketched isotropic Gaussian regularisation (arXiv:2511.08544, section 4): how far a cloud of
points is from a standard normal one, seen along random directions."""

import torch
from torch import Tensor
from torch.nn import functional

from augment.rng import uniform
from models.collectives import all_reduce_sum

_REACH = 5.0  # the paper's; what the window leaves beyond it is below 1e-6


def random_directions(num: int, dim: int, *, seed: int, step: Tensor) -> Tensor:
    """Draw unit vectors, evenly over the sphere, as a function of seed and step alone.

    Args:
        num: How many, M.
        dim: Their length, D.
        seed: The run's.
        step: Scalar int64; the directions are made on its device.

    Returns:
        (M, D) float32, the same on every worker.
    """
    index = torch.arange(num, device=step.device)
    u = uniform(dim, seed=seed, epoch=step.expand(num), sample_id=index, view=0, op="sigreg")
    normal = torch.erfinv(2 * u - (1 - 2**-24))  # the middle of a cell of u: never infinite
    return functional.normalize(normal, dim=1)


def sigreg(z: Tensor, valid: Tensor, directions: Tensor, *, num_knots: int = 17) -> Tensor:
    """Test along every direction whether points are spread as a standard normal (Epps-Pulley).

    The statistic is N times the integral over t of |c(t) - exp(-t^2 / 2)|^2 exp(-t^2 / 2), where c
    is the empirical characteristic function of N numbers, and the other its value under a standard
    normal. The integrand is even, so that the trapezoid rule over [0, 5] does for [-5, 5]: off by
    less than 1e-4 of a point's share while the numbers are less than 14 apart. Points farther out
    than 20 are mistaken for nearer ones.

    Args:
        z: Points of this worker's B samples in V views, (V, B, D), any float dtype; B the same on
            every worker.
        valid: (B,) bool; the others count in nothing.
        directions: (M, D), unit vectors, the same on every worker.
        num_knots: Of the quadrature. Paper: 17.

    Returns:
        Mean over directions and views of the statistic of all workers' points, a float32 scalar,
        equal on every worker. Of a standard normal cloud it is 1.06 whatever N; of points that all
        coincide at the origin 0.41 * N, farther out more. Zero where no sample is valid.
    """
    with torch.autocast(z.device.type, enabled=False):
        points = z.float()
        knots = torch.linspace(0, _REACH, num_knots, device=z.device, dtype=points.dtype)
        along = points @ directions.to(points).T  # (V, B, M)
        angles = along.unsqueeze(-1) * knots  # (V, B, M, T)
        weight = valid.to(angles.dtype)
        sums = [torch.einsum("b,vbmt->vmt", weight, wave) for wave in (angles.cos(), angles.sin())]
        total = all_reduce_sum(
            torch.cat([*(part.flatten() for part in sums), weight.sum().view(1)])
        )
        count = total[-1]
        real, imaginary = (total[:-1] / count.clamp(min=1)).view(2, -1, num_knots)  # (V * M, T)
        normal = torch.exp(-knots.square() / 2)
        spacing = torch.full_like(knots, 2 * _REACH / (num_knots - 1))
        spacing[[0, -1]] /= 2
        error = (real - normal).square() + imaginary.square()
        statistic: Tensor = count * (error @ (spacing * normal)).mean()
        return statistic
