"""The optimisers of a run, and what is clipped before they step."""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor, nn

from models.optim import (
    AdversarialOptimConfig,
    OptimConfig,
    ParamGroup,
    Role,
    build_optimizer,
    peak_lr,
    set_schedule,
)
from models.steps.sharding import laid_out_optimizer, parts_here, whole, whole_state

_SMALLEST_NORM = 1e-6  # as torch's clip_grad_norm_


class Optimizers:
    """The optimisers of a run: one, and another one for the discriminator of a method that has it.

    Args:
        method: Whose parameters they update.
        groups: Its parameters, as `param_groups` gives them, each with its optimiser.
        config: How; with a discriminator's parameters an `AdversarialOptimConfig`.
        global_batch_size: Samples of a step, which the peak learning rates are scaled to.
        lr_scale: Multiplies the peak learning rates.
        float16: Whether gradients are those of a network that computes in float16, whose smallest
            would vanish: `scaled` then multiplies the loss (arXiv:1710.03740).

    Raises:
        ValueError: no trainable parameter, a group name used twice, or a discriminator without its
            configuration.
    """

    def __init__(
        self,
        method: nn.Module,
        groups: Sequence[ParamGroup],
        config: OptimConfig,
        global_batch_size: int,
        lr_scale: float = 1.0,
        *,
        float16: bool = False,
    ) -> None:
        device = next(method.parameters()).device.type
        self._scaler = torch.amp.GradScaler(device, enabled=float16)
        self._parts = {
            role: _Part(method, mine, _config_of(role, config), global_batch_size, lr_scale)
            for role in get_args(Role)
            if (mine := [group for group in groups if group.get("optimizer", "main") == role])
            or role == "main"
        }

    @property
    def main(self) -> torch.optim.Optimizer:
        """Return the optimiser that updates the encoder."""
        return self._parts["main"].optimizer

    def set_schedule(self, step: int, num_steps: int) -> float:
        """Set the coming step's learning rates and weight decays.

        Returns:
            The main optimiser's learning rate.
        """
        rates = {
            role: set_schedule(
                part.optimizer, part.config, step=step, num_steps=num_steps, peak=part.peak
            )
            for role, part in self._parts.items()
        }
        return rates["main"]

    def scaled(self, loss: Tensor) -> Tensor:
        """Return what to call `backward` of."""
        return self._scaler.scale(loss)

    def step(self) -> Tensor:
        """Clip each optimiser's gradients by its own limit, update the weights, drop the gradients.

        With float16, an optimiser whose gradients overflow makes no step, and later losses are
        multiplied by less.

        Returns:
            The norm of all gradients before clipping; 0 where they overflow and less would do.
        """
        for part in self._parts.values():
            self._scaler.unscale_(part.optimizer)
        norms = [part.clip() for part in self._parts.values()]
        norm = norms[0] if len(norms) == 1 else torch.stack(norms).norm()
        if self._scaler.is_enabled():
            scale = self._scaler.scale(torch.ones_like(norm))
            norm = norm.where(norm.isfinite() | (scale <= _LEAST_SCALE), 0.0)
        for part in self._parts.values():
            self._scaler.step(part.optimizer)
            part.optimizer.zero_grad(set_to_none=True)
        self._scaler.update()
        return norm

    def state_dict(self) -> dict[str, Any]:
        """Return the states by the names they have in a checkpoint, divided ones whole on rank 0
        alone; all workers must call."""
        states = {
            _NAMES[role]: whole_state(part.optimizer.state_dict())
            for role, part in self._parts.items()
        }
        return states | ({_SCALER: self._scaler.state_dict()} if self._scaler.is_enabled() else {})

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave, which may stand among other entries."""
        for role, part in self._parts.items():
            state = laid_out_optimizer(saved[_NAMES[role]], part.optimizer)
            part.optimizer.load_state_dict(state)
        if self._scaler.is_enabled() and _SCALER in saved:
            self._scaler.load_state_dict(saved[_SCALER])


class _Part:
    """One optimiser, what it updates and how."""

    def __init__(
        self,
        method: nn.Module,
        groups: Sequence[ParamGroup],
        config: OptimConfig,
        global_batch_size: int,
        lr_scale: float,
    ) -> None:
        self.config = config
        self.peak = lr_scale * peak_lr(config, global_batch_size)
        self.optimizer = build_optimizer(groups, config, self.peak)
        words = {each: group.get("clipped", "") for group in groups for each in group["params"]}
        self._clipped = defaultdict[str, list[nn.Parameter]](list)
        # In the method's own order, as the norm of the gradients is rounded by it.
        for parameter in method.parameters():
            if parameter in words:
                self._clipped[words[parameter]].append(parameter)

    def clip(self) -> Tensor:
        """Clip the gradients, apart where groups say so, and return the norm of all before."""
        limit = float("inf") if self.config.clip_grad_norm is None else self.config.clip_grad_norm
        if self.config.clip_by == "parameter":
            return clip_each(itertools.chain(*self._clipped.values()), limit)
        norms: list[Tensor] = [
            whole(nn.utils.clip_grad_norm_(some, limit)) for some in self._clipped.values()
        ]
        return norms[0] if len(norms) == 1 else torch.stack(norms).norm()


def clip_each(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Clip each parameter's gradient by its own norm, as DINO's authors do.

    Args:
        parameters: Those without a gradient are left out.
        limit: Largest norm of a gradient.

    Returns:
        The norm of all gradients before clipping.
    """
    gradients = [each.grad for each in parameters if each.grad is not None]
    norms = torch.stack([whole(gradient.norm()) for gradient in gradients])
    shares = (limit / (norms + _SMALLEST_NORM)).clamp(max=1)
    for gradient, share in zip(parts_here(gradients), shares.unbind(), strict=True):
        gradient.mul_(share)
    total: Tensor = norms.norm()
    return total


_LEAST_SCALE = 1.0  # below, gradients overflow by themselves
_SCALER = "scaler"
_NAMES: dict[Role, str] = {"main": "optimizer", "discriminator": "discriminator_optimizer"}


def _config_of(role: Role, config: OptimConfig) -> OptimConfig:
    if role == "main":
        return config
    if not isinstance(config, AdversarialOptimConfig):
        raise ValueError(
            "a method with a discriminator needs optim.discriminator: Method.adversarial"
        )
    return config.discriminator
