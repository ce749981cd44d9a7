"""LARS (You 2017, arXiv:1708.03888): each layer's step is as long as its weights ask for.

Over all tensors at once, where others loop: of ResNet-50's 161 tensors a step launches a tenth of
the kernels.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from models.steps.sharding import parts_here, whole

_EPS = 1e-8


class LARS(Optimizer):
    """SGD with momentum, in which the gradient of each adapted tensor is scaled to a share of the
    length of its weights.

    Args:
        params: Groups; in one with `adapt` false gradients are taken as they are, as for biases and
            norms.
        lr: Learning rate.
        momentum: Share of the running sum of gradients that a step keeps.
        weight_decay: Times the weights, is added to the gradient, before it is scaled.
        trust_coefficient: Length of a scaled gradient beside its weights'.
        trust_clip: Only ever shorten steps: the rate of a tensor is at most `lr` (LARC).
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 1e-3,
        trust_clip: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "trust_clip": trust_clip,
            "adapt": True,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Move all weights that have a gradient, which it changes.

        Args:
            closure: None: gradients are there already.
        """
        assert closure is None
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            if moved:
                self._move(moved, group)

    def _move(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        gradients = [each.grad for each in parameters if each.grad is not None]
        weights, local = parts_here(parameters), parts_here(gradients)
        if group["adapt"]:
            rates = _rates(parameters, gradients, group)
            torch._foreach_add_(local, weights, alpha=group["weight_decay"])
            torch._foreach_mul_(local, list(rates.unbind()))
        elif group["weight_decay"]:
            torch._foreach_add_(local, weights, alpha=group["weight_decay"])
        sums = parts_here([self._sum_of(parameter) for parameter in parameters])
        torch._foreach_mul_(sums, group["momentum"])
        torch._foreach_add_(sums, local)
        torch._foreach_add_(weights, sums, alpha=-group["lr"])

    def _sum_of(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        found: Tensor = state["momentum_buffer"]
        return found


def _rates(weights: list[Tensor], gradients: list[Any], group: dict[str, Any]) -> Tensor:
    """Return what each gradient is multiplied by, (number of tensors,); 1 where it or the weights
    are 0."""
    length = torch.stack([whole(each) for each in torch._foreach_norm(weights)])
    slope = torch.stack([whole(each) for each in torch._foreach_norm(gradients)])
    rates = group["trust_coefficient"] * length
    rates = rates / (slope + length * group["weight_decay"] + _EPS)
    rates = rates.where((length > 0) & (slope > 0), 1.0)
    clipped: Tensor = (rates / group["lr"]).clamp(max=1) if group["trust_clip"] else rates
    return clipped
