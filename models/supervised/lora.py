"""Low-rank adaptation (Hu 2021, arXiv:2106.09685): a frozen network learns by small additions to
its linear layers."""

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class LowRank(nn.Module):
    """Adds scale * up @ down to a weight (out, in); nothing at first, as `up` begins at zero."""

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        num_out, num_in = weight.shape
        self.down = nn.Parameter(torch.empty(rank, num_in))
        self.up = nn.Parameter(torch.zeros(num_out, rank))
        self.scale = alpha / rank
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the adapted weight."""
        return weight + self.scale * (self.up @ self.down)


def adapt_linear_layers(network: nn.Module, rank: int, alpha: float) -> int:
    """Freeze a network and add low-rank updates to its linear layers.

    Args:
        network: Changed in place.
        rank: Of the updates; layers that are as narrow are left alone.
        alpha: Scales the updates by alpha / rank.

    Returns:
        How many layers learn.
    """
    network.requires_grad_(False)
    found = [part for part in network.modules() if isinstance(part, nn.Linear)]
    wide = [part for part in found if min(part.weight.shape) > rank]
    for part in wide:
        parametrize.register_parametrization(part, "weight", LowRank(part.weight, rank, alpha))
    return len(wide)


def merged_state(network: nn.Module) -> dict[str, Tensor]:
    """Return the state of a network with the updates added to its weights, under its own names."""
    state = dict(network.state_dict())
    for path, part in network.named_modules():
        if parametrize.is_parametrized(part, "weight"):
            inner = f"{path}.parametrizations.weight."
            state = {name: value for name, value in state.items() if not name.startswith(inner)}
            assert isinstance(part, nn.Linear)
            state[f"{path}.weight"] = part.weight.detach()
    return state
