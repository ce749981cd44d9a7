"""Lab: scikit-image's numbers, gradients everywhere, and the bins of the gamut by their rule."""

import itertools

import numpy as np
import skimage.color
import skimage.data
import torch

from augment.lab import gamut_points, lab_to_rgb, rgb_to_lab


def photograph() -> torch.Tensor:
    return torch.from_numpy(skimage.data.coffee()[::4, ::4].copy()).permute(2, 0, 1)[None] / 255


def test_both_ways_agree_with_scikit_image_and_undo_each_other() -> None:
    rgb = photograph()
    lab = rgb_to_lab(rgb)
    expected = skimage.color.rgb2lab(rgb[0].permute(1, 2, 0).double().numpy())
    np.testing.assert_allclose(lab[0].permute(1, 2, 0), expected, atol=1e-3)
    torch.testing.assert_close(lab_to_rgb(lab), rgb, rtol=0, atol=1e-4)
    back = skimage.color.lab2rgb(expected)
    np.testing.assert_allclose(lab_to_rgb(lab)[0].permute(1, 2, 0), back, atol=1e-4)


def test_gradients_are_finite_at_black_white_and_grey_and_equal_differences() -> None:
    levels = torch.tensor([0.0, 0.5, 1.0]).expand(1, 3, 1, 3).clone().requires_grad_()
    rgb_to_lab(levels).square().sum().backward()
    assert levels.grad is not None and levels.grad.isfinite().all()
    inside = (0.1 + 0.8 * torch.rand(1, 3, 2, 2, dtype=torch.float64)).float().requires_grad_()
    (gradient,) = torch.autograd.grad(rgb_to_lab(inside)[0, 1].sum(), inside)
    step = 1e-2
    moved = inside.detach().clone()
    moved[0, 0] += step
    slope = (rgb_to_lab(moved) - rgb_to_lab(inside.detach()))[0, 1] / step
    torch.testing.assert_close(gradient[0, 0], slope, rtol=0.05, atol=0.5)


def test_autocast_does_not_round_colours() -> None:
    rgb = photograph()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(rgb_to_lab(rgb), rgb_to_lab(rgb))
        lab = rgb_to_lab(rgb)
    assert lab.dtype == torch.float32
    torch.testing.assert_close(lab, rgb_to_lab(rgb), rtol=0, atol=0)


def test_the_gamut_has_309_points_and_holds_the_corners_of_every_colour() -> None:
    points = {tuple(point) for point in gamut_points().tolist()}
    assert len(points) == 309
    assert all(a % 10 == 0 and b % 10 == 0 for a, b in points)
    levels = torch.linspace(0, 1, 12)
    cube = torch.stack(torch.meshgrid(levels, levels, levels, indexing="ij")).flatten(
        2
    )  # inside too
    ab = rgb_to_lab(cube[None])[0, 1:].flatten(1).T
    for a, b in (ab / 10).tolist():
        around = itertools.product(
            (10 * np.floor(a), 10 * np.ceil(a)), (10 * np.floor(b), 10 * np.ceil(b))
        )
        assert set(around) <= points
    assert (100.0, 0.0) not in points or (100.0, 80.0) not in points  # not the whole square
