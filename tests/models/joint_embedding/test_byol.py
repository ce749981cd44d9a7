"""BYOL: prediction against target, and how the teacher moves."""

import torch
from torch import Tensor

from models.joint_embedding.byol import BYOL
from tests.small_methods import build, make_batch


def small() -> BYOL:
    method, _ = build("byol")
    assert isinstance(method, BYOL)
    return method


def test_loss_is_two_minus_two_cosines_of_both_directions_by_a_loop() -> None:
    method, batch = small(), make_batch("byol")
    batch["valid"][[0, 5]] = False
    views = [batch["views"][group][0] for group in ("global_crops_1", "global_crops_2")]
    online = [
        method.prediction_head(method.projection_head(method.encoder(view))) for view in views
    ]
    targets = [method.teacher(view) for view in views]

    def distance(p: Tensor, t: Tensor) -> float:
        return 2 - 2 * float(p @ t / (p.norm() * t.norm()))

    rows = [i for i in range(12) if i not in (0, 5)]
    losses = [
        distance(online[0][i], targets[1][i]) + distance(online[1][i], targets[0][i]) for i in rows
    ]
    torch.testing.assert_close(
        method(batch)["loss"].item(), sum(losses) / len(rows), rtol=1e-4, atol=1e-4
    )


def test_no_gradient_reaches_the_teacher_which_stands_still_at_the_end() -> None:
    method = small()
    method(make_batch("byol"))["loss"].backward()
    assert all(parameter.grad is None for parameter in method.teacher.parameters())
    with torch.no_grad():
        for parameter in method.encoder.parameters():
            parameter += 1
    before = [parameter.clone() for parameter in method.teacher.parameters()]
    method.after_step(10, 10)  # momentum is 1
    assert all(torch.equal(a, b) for a, b in zip(before, method.teacher.parameters(), strict=True))
    method.after_step(0, 10)
    moved = next(iter(method.teacher.parameters())) - before[0]
    torch.testing.assert_close(moved, torch.full_like(moved, 0.004), rtol=1e-3, atol=1e-6)


def test_the_two_views_are_drawn_differently() -> None:
    first, second = small().views.groups.values()
    assert first.solarize is None and second.solarize is not None
