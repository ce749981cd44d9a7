"""Heads that sit on an encoder during pretraining and are thrown away after it."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def mlp(
    dims: Sequence[int], *, norm: bool = True, last_norm: bool = False, last_bias: bool = True
) -> nn.Sequential:
    """Build a multi-layer perceptron with ReLU between its layers, as projection or prediction
    head.

    A layer followed by batch norm has no bias: the norm would subtract it.

    Args:
        dims: Features at the input, of each hidden layer and at the output; at least two.
        norm: Batch norm after each hidden layer.
        last_norm: Batch norm after the last layer, without learned scale and shift: what follows
            normalises anyway.
        last_bias: A bias in the last layer, where no norm follows it.

    Returns:
        A module from (B, dims[0]) to (B, dims[-1]).

    Raises:
        ValueError: fewer than two dims.
    """
    if len(dims) < 2:
        raise ValueError(f"dims must hold at least an input and an output width, got {list(dims)}")
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(dims[:-1]):
        layers.append(nn.Linear(width_in, width_out, bias=not norm))
        if norm:
            layers.append(nn.BatchNorm1d(width_out))
        layers.append(nn.ReLU(inplace=True))
    layers.append(nn.Linear(dims[-2], dims[-1], bias=last_bias and not last_norm))
    if last_norm:
        layers.append(nn.BatchNorm1d(dims[-1], affine=False))
    return nn.Sequential(*layers)
