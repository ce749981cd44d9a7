"""Teachers: copies of a network that follow it as a running average of its weights, without a
gradient."""

import copy
import math
from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from torch.optim.swa_utils import get_ema_multi_avg_fn

from models.encoders.drop_path import DropPath

Network = TypeVar("Network", bound=nn.Module)


def frozen_copy(network: Network) -> Network:
    """Copy a network as its own teacher: equal weights, none of them trainable, and nothing that it
    drops at random."""
    copied = copy.deepcopy(network).requires_grad_(False)
    for part in copied.modules():
        if isinstance(part, DropPath):
            part.share = 0.0
        if isinstance(part, _DropoutNd):
            part.p = 0.0
    return copied


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move a teacher's weights towards its student's: momentum * teacher + (1 - momentum) *
    student.

    Buffers are left alone: a teacher's batch norm has statistics of what it saw itself, as in BYOL
    and MoCo.

    Args:
        teacher: A `frozen_copy` of `student`, or of modules in the same order.
        student: Gives the weights.
        momentum: Share of the teacher that stays, in [0, 1].
    """
    get_ema_multi_avg_fn(momentum)(list(teacher.parameters()), list(student.parameters()), None)


def cosine_momentum(step: int, num_steps: int, start: float) -> float:
    """Return the momentum after a step: from `start` to 1 along half a cosine
    (arXiv:2006.07733)."""
    return 1 - (1 - start) * (1 + math.cos(math.pi * step / num_steps)) / 2
