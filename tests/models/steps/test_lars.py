"""models.steps.lars: the steps are timm's, taken for all tensors at once."""

import pytest
import torch
from timm.optim import Lars
from torch import Tensor, nn

from models.steps.lars import LARS


def weights() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((5, 3), (4, 2, 3, 3), (7,), (2, 2))
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def trained(kind: type, options: dict[str, float | bool], adapt: str) -> list[Tensor]:
    params = weights()
    groups = [
        {"params": params[:2], "weight_decay": 0.1, adapt: True},
        {"params": params[2:3], "weight_decay": 0.0, adapt: False},
        {"params": params[3:], "weight_decay": 0.0, adapt: True},
    ]
    optimizer = kind(groups, lr=0.5, momentum=0.9, **options)
    generator = torch.Generator().manual_seed(1)
    for step in range(4):
        for parameter in params:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        if step == 1:
            params[0].grad = None  # waits
        if step == 2:
            params[3].grad = torch.zeros(2, 2)
        optimizer.step()
    return params


@pytest.mark.parametrize("clip", [False, True])
def test_steps_are_those_of_timm(clip: bool) -> None:
    ours = trained(LARS, {"trust_coefficient": 0.02, "trust_clip": clip}, "adapt")
    theirs = trained(Lars, {"trust_coeff": 0.02, "trust_clip": clip}, "always_adapt")
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, other)


def test_a_step_launches_a_fraction_of_the_operations_of_one_by_one() -> None:
    def operations(kind: type, **adapt: bool) -> int:
        params = [nn.Parameter(torch.randn(3, 3)) for _ in range(50)]
        optimizer = kind([{"params": params, **adapt}], lr=0.1, momentum=0.9)
        for parameter in params:
            parameter.grad = torch.randn(3, 3)
        optimizer.step()
        with Counting() as counting:
            optimizer.step()
        return counting.calls

    assert operations(LARS, adapt=True) < operations(Lars, always_adapt=True) / 5


class Counting(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts calls of torch's operators."""

    calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.calls += 1
        return func(*args, **(kwargs or {}))
