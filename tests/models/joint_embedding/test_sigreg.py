"""SIGReg against the closed form of its integral, against a fine quadrature, and on collapse."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from models.joint_embedding.sigreg import random_directions, sigreg

ALL = torch.ones(40, dtype=torch.bool)


def directions(num: int = 6, dim: int = 5, step: int = 3) -> Tensor:
    return random_directions(num, dim, seed=0, step=torch.tensor(step))


def points(scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return scale * torch.randn(2, 40, 5, generator=generator) + 0.3


def closed_form(x: np.ndarray) -> float:
    """Epps and Pulley's integral over the whole line: each of its three terms is a Gaussian's."""
    pairs = np.exp(-((x[:, None] - x[None]) ** 2) / 2).mean()
    crossed = np.exp(-(x**2) / 4).mean() / math.sqrt(2)
    return len(x) * math.sqrt(2 * math.pi) * (pairs - 2 * crossed + 1 / math.sqrt(3))


def fine_quadrature(x: np.ndarray) -> float:
    t = np.linspace(-8, 8, 20_001)
    empirical = np.exp(1j * t[:, None] * x).mean(1)
    error = np.abs(empirical - np.exp(-(t**2) / 2)) ** 2
    return len(x) * float(np.trapezoid(error * np.exp(-(t**2) / 2), t))


@pytest.mark.parametrize("scale", [0.2, 1.0, 2.5])
def test_it_is_the_integrals_closed_form_and_a_fine_quadrature(scale: float) -> None:
    z = points(scale)
    valid = ALL.clone()
    valid[[1, 7, 30]] = False
    along = (z[:, valid].double() @ directions().double().T).numpy()  # (V, N, M)
    lines = [along[view, :, line] for view in range(2) for line in range(6)]
    found = sigreg(z, valid, directions()).item()
    assert found == pytest.approx(np.mean([closed_form(x) for x in lines]), rel=1e-4)
    assert found == pytest.approx(np.mean([fine_quadrature(x) for x in lines]), rel=1e-4)


def test_a_collapsed_cloud_costs_far_more_than_a_normal_one() -> None:
    normal = torch.randn(1, 4000, 16, generator=torch.Generator().manual_seed(0))
    many = torch.ones(4000, dtype=torch.bool)
    lines = directions(256, 16)
    expected = math.sqrt(2 * math.pi) * (1 - 1 / math.sqrt(3))  # 1.06
    assert sigreg(normal, many, lines).item() == pytest.approx(expected, rel=0.1)
    at_origin = sigreg(torch.zeros_like(normal), many, lines).item()
    share = math.sqrt(2 * math.pi) * (1 - math.sqrt(2) + 1 / math.sqrt(3))  # 0.41 a point
    assert at_origin == pytest.approx(4000 * share, rel=1e-4)
    on_a_line = torch.randn(1, 4000, 1).expand(-1, -1, 16)
    assert sigreg(on_a_line, many, lines).item() > 100 * expected


def test_order_does_not_matter_and_neither_does_a_rotation_of_points_and_directions() -> None:
    z = points()
    turn = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(1)))[0]
    expected = sigreg(z, ALL, directions())
    for same in (sigreg(z.flip(1), ALL, directions()), sigreg(z @ turn, ALL, directions() @ turn)):
        torch.testing.assert_close(same, expected, rtol=1e-4, atol=1e-5)


def test_directions_are_unit_vectors_of_seed_and_step_alone() -> None:
    lines = directions(4096, 8)
    torch.testing.assert_close(lines.norm(dim=1), torch.ones(4096))
    torch.testing.assert_close(lines.T @ lines / 4096, torch.eye(8) / 8, rtol=0, atol=0.01)
    assert torch.equal(lines, directions(4096, 8))
    for other in (
        directions(4096, 8, step=4),
        random_directions(4096, 8, seed=1, step=torch.tensor(3)),
    ):
        assert (lines * other).sum(1).mean().abs() < 0.05
