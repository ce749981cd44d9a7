import math

import pytest
import torch
from torch import nn

from models.blocks.ema import cosine_momentum, follow, frozen_copy
from models.encoders.drop_path import DropPath


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def test_a_frozen_copy_is_equal_untrainable_and_its_own() -> None:
    student = network()
    teacher = frozen_copy(student)
    assert all(
        torch.equal(a, b) and a is not b
        for a, b in zip(student.parameters(), teacher.parameters(), strict=True)
    )
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_a_frozen_copy_leaves_nothing_out_at_random_where_the_network_does() -> None:
    student = nn.Sequential(DropPath(0.5), nn.Dropout(0.5))
    teacher = frozen_copy(student)
    x = torch.rand(200, 3)
    assert torch.equal(teacher(x), x)
    assert not student(x).all()


def test_a_teacher_moves_its_share_of_the_way_and_keeps_its_statistics() -> None:
    student, teacher = network(), frozen_copy(network())
    student(torch.randn(4, 3))
    before = [parameter.clone() for parameter in teacher.parameters()]
    follow(teacher, student, 0.75)
    for was, new, goal in zip(before, teacher.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(new, 0.75 * was + 0.25 * goal.detach())
    assert not teacher[1].running_mean.any()


def test_momentum_rises_to_one_along_half_a_cosine() -> None:
    momenta = [cosine_momentum(step, 100, 0.9) for step in range(101)]
    assert (
        momenta[0] == pytest.approx(0.9)
        and momenta[50] == pytest.approx(0.95)
        and momenta[100] == 1
    )
    assert momenta == sorted(momenta)
    assert momenta[25] == pytest.approx(1 - 0.1 * (1 + math.sqrt(0.5)) / 2)
