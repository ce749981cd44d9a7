"""What the processes of a run exchange. In one process every function here is the identity.

The two tensor operations are differentiable under one convention: a worker's gradient is that of
the SUM of all workers' losses. DistributedDataParallel then divides by the number of workers, so a
loss that is a mean over the global batch on every worker, or a worker's share of that mean times
the number of workers, trains as in one process.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """Return this process's place among the workers, 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of workers, 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def my_share(length: int) -> slice:
    """Return this worker's part of 0..length - 1: contiguous, in rank order, as even as can be."""
    return slice(rank() * length // world_size(), (rank() + 1) * length // world_size())


def gather(x: Tensor) -> Tensor:
    """Join every worker's rows, in rank order.

    Args:
        x: (B, ...), of the same shape and dtype on every worker; all workers must call.

    Returns:
        (world_size * B, ...). Its gradient reaches the rows of every worker.
    """
    return x if world_size() == 1 else _Gather.apply(x)


def all_reduce_sum(x: Tensor) -> Tensor:
    """Sum `x` over the workers, elementwise.

    Args:
        x: Of the same shape and dtype on every worker; all workers must call. It is left as it was.

    Returns:
        The sum, of x's shape; equal on all workers. Its gradient reaches every worker's `x`.
    """
    return x if world_size() == 1 else _AllReduceSum.apply(x)


def broadcast(x: Tensor) -> Tensor:
    """Take rank 0's `x`, without gradient.

    Args:
        x: Of the same shape and dtype on every worker; all workers must call. It is left as it was.

    Returns:
        Rank 0's values, on every worker.
    """
    if world_size() == 1:
        return x
    received = x.detach().clone(memory_format=torch.contiguous_format)
    dist.broadcast(received, src=0)
    return received


def global_mean(per_sample: Tensor, valid: Tensor) -> Tensor:
    """Average over the valid samples of all workers.

    Args:
        per_sample: (B,), B the same on every worker; all workers must call.
        valid: (B,) bool.

    Returns:
        This worker's sum times the number of workers over the global batch's count, a scalar: its
        average over workers is the mean. Zero, with zero gradient, where no sample of the global
        batch is valid.
    """
    num_valid = all_reduce_sum(valid.sum().to(per_sample.dtype)).clamp(min=1)
    return per_sample.where(valid, 0.0).sum() * world_size() / num_valid


def _summed(x: Tensor) -> Tensor:
    total = x.clone(memory_format=torch.contiguous_format)  # NCCL takes dense tensors only
    dist.all_reduce(total)
    return total


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.num_rows = x.shape[0]
        joined = x.new_empty((world_size() * x.shape[0], *x.shape[1:]))
        dist.all_gather_into_tensor(joined, x.contiguous())
        return joined

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        mine = grad.new_empty((ctx.num_rows, *grad.shape[1:]))
        dist.reduce_scatter_tensor(mine, grad.contiguous())
        return mine


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _summed(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _summed(grad)
