"""Batch normalisation over the global batch, on any device; torch's own SyncBatchNorm refuses CPU
tensors.

Statistics of a small per-worker batch make training depend on how the batch is split, and leak
which samples share a worker into contrastive losses.
"""

import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from models.collectives import all_reduce_sum, gather, world_size


class SyncBatchNorm(_BatchNorm):
    """`nn.BatchNorm1d/2d/3d` whose training statistics are those of all workers' samples together.

    Input is (B, C, ...), output of the same shape, dtype and memory format; B may differ between
    workers, and must be at least 1. Statistics are float32 for half-precision input. One collective
    in the forward pass, one in the backward pass; in one process, and in evaluation, this is
    torch's kernel. Same parameters, buffers and state dict as `nn.BatchNorm2d`. All workers hold
    equal running statistics, so DDP needs no `broadcast_buffers`.

    Raises:
        ValueError: input of fewer than two dimensions, or one value per channel in the global
            batch.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"batch norm takes (B, C, ...), got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        if not self.training or world_size() == 1:
            return super().forward(input)
        mean, var, count = _global_moments(input.detach())
        self._update_running_statistics(mean, var, count)
        normalised: Tensor = _Normalise.apply(
            input, self.weight, self.bias, mean, var, count, self.eps
        )
        return normalised

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        if (
            self.running_mean is None
            or self.running_var is None
            or self.num_batches_tracked is None
        ):
            return
        self.num_batches_tracked.add_(1)
        if self.momentum is None:  # torch's word for a plain average over all batches
            share = 1.0 / self.num_batches_tracked.to(mean.dtype)
        else:
            share = mean.new_full((), self.momentum)
        unbiased = var * (count / (count - 1))
        for running, new in ((self.running_mean, mean), (self.running_var, unbiased)):
            running.lerp_(new.to(running.dtype), share.to(running.dtype))


class SyncBatchNormAct(SyncBatchNorm):
    """timm's `BatchNormAct2d` (a norm that drops and activates as well), synchronised."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        activated: Tensor = self.act(self.drop(super().forward(input)))
        return activated


class GroupBatchNorm(_BatchNorm):
    """`nn.BatchNorm1d/2d/3d` whose training statistics are those of so many neighbouring samples,
    as if every group of them had a device of its own.

    Input is (B, C, ...), cut into B // group_size groups of nearly equal size, at least one. The
    running statistics move by the mean over all groups of all workers, so they are equal on all of
    them: one small collective in the forward pass.
    """

    group_size: int

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"batch norm takes (B, C, ...), got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        groups = input.tensor_split(max(1, len(input) // self.group_size))
        precision = torch.promote_types(input.dtype, torch.float32)
        # of each group: mean and unbiased variance of a channel
        moments = input.new_zeros(len(groups), 2, input.shape[1], dtype=precision)
        normalised = [
            # a momentum of 1 leaves the group's own moments there
            functional.batch_norm(part, own[0], own[1], self.weight, self.bias, True, 1.0, self.eps)
            for part, own in zip(groups, moments, strict=True)
        ]
        self._update_running_statistics(moments)
        return torch.cat(normalised)

    @torch.no_grad()
    def _update_running_statistics(self, moments: Tensor) -> None:
        if (
            self.running_mean is None
            or self.running_var is None
            or self.num_batches_tracked is None
        ):
            return
        total = all_reduce_sum(
            torch.cat([moments.sum(0).flatten(), moments.new_full((1,), len(moments))])
        )
        mean, var = (total[:-1] / total[-1]).view(2, -1)
        self.num_batches_tracked.add_(1)
        share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(var.to(self.running_var.dtype), share)


class GroupBatchNormAct(GroupBatchNorm):
    """timm's `BatchNormAct2d` (a norm that drops and activates as well), by groups."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        activated: Tensor = self.act(self.drop(super().forward(input)))
        return activated


def _activated_classes() -> list[type[nn.Module]]:
    """List timm's batch norms that activate as well; none where no network of timm is loaded, as
    loading it takes seconds."""
    timm = sys.modules.get("timm.layers.norm_act")
    return [timm.BatchNormAct2d] if timm else []


def _instead(
    norm: type[_BatchNorm], activated: type[_BatchNorm]
) -> dict[type[nn.Module], type[_BatchNorm]]:
    """Map plain classes to others; subclasses, which have a forward of their own, stay."""
    plain = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    return {**dict.fromkeys(plain, norm), **dict.fromkeys(_activated_classes(), activated)}


def group_batch_norm(module: nn.Module, group_size: int) -> None:
    """Let every batch norm of `module` take its statistics of groups of samples, in place.

    Args:
        module: Its norms change their class; parameters, buffers and state dict stay.
        group_size: Samples of a group, at least 2.
    """
    grouped = _instead(GroupBatchNorm, GroupBatchNormAct)
    for part in module.modules():
        if type(part) in grouped:
            part.__class__ = grouped[type(part)]
            part.group_size = group_size  # type: ignore[assignment]


def convert_sync_batch_norm(module: nn.Module) -> nn.Module:
    """Make every batch norm of `module` a synchronised one, in place.

    Only the class of each norm changes, so its parameters, buffers, hooks and whoever else refers
    to it stay. Those by groups stay as they are.

    Returns:
        `module` itself.

    Raises:
        ValueError: a batch norm of a kind whose own behaviour would be lost.
    """
    synchronised = _instead(SyncBatchNorm, SyncBatchNormAct)
    for part in module.modules():
        if type(part) in synchronised:
            part.__class__ = synchronised[type(part)]
        elif isinstance(part, _BatchNorm) and not isinstance(
            part, SyncBatchNorm | nn.SyncBatchNorm | GroupBatchNorm
        ):
            raise ValueError(
                f"{type(part).__name__} has no synchronised form; use an encoder with"
                " nn.BatchNorm2d"
            )
    return module


def _global_moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean (C,), biased variance (C,) and values per channel (1,) over all workers.

    Workers exchange means and variances, not sums of squares, whose difference would cancel in
    float32 where the mean is large beside the deviation.
    """
    num_channels = x.shape[1]
    # also sets the precision
    unused = x.new_zeros(2, num_channels, dtype=torch.promote_types(x.dtype, torch.float32))
    # One pass; torch.var_mean took 3 to 15 times as long on one CPU core and rounds half-precision
    # statistics.
    mean, var = torch.batch_norm_update_stats(x, unused[0], unused[1], 0.0)
    mine = torch.cat([mean, var, mean.new_full((1,), x.numel() / num_channels)])
    every = gather(mine[None])  # (W, 2 * C + 1)
    means, variances, counts = every.split([num_channels, num_channels, 1], dim=1)
    count = counts.sum(0)
    mean = (means * counts).sum(0) / count
    var = ((variances + (means - mean).square()) * counts).sum(0) / count
    return mean, var, count


class _Normalise(torch.autograd.Function):
    """Normalises by given global moments, and sends gradients through those moments to every
    worker's input.

    Weight and bias gradients stay this worker's own, as for any layer: DDP averages them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        var: Tensor,
        count: Tensor,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, var, count)
        ctx.eps = eps
        return functional.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, var, count = ctx.saved_tensors
        inv_std = torch.rsqrt(var + ctx.eps)
        # Of this kernel only the reductions: sum(grad * normalised x) and sum(grad), each (C,).
        _, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, None, None, mean, inv_std, True, ctx.eps, [False, True, True]
        )
        grad_x = None
        if ctx.needs_input_grad[0]:
            scale = inv_std if weight is None else inv_std * weight
            through_var, through_mean = (
                -scale * all_reduce_sum(torch.stack([grad_weight, grad_bias])) / count
            )
            grad_x = functional.batch_norm(
                x, mean, var, through_var, through_mean, training=False, eps=ctx.eps
            )
            grad_x.addcmul_(grad, scale.to(grad.dtype).view(-1, *[1] * (x.ndim - 2)))
        wants = ctx.needs_input_grad
        return (
            grad_x,
            grad_weight if wants[1] else None,
            grad_bias if wants[2] else None,
            None,
            None,
            None,
            None,
        )
