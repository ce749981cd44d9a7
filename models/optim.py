"""Optimisers, their learning-rate schedule and which parameters decay."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NotRequired, TypedDict

import torch
from pydantic import Field
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from augment.frozen import Frozen, other_of
from models.steps.lars import LARS

_BASE_BATCH_SIZE = 256  # the batch that published learning rates refer to
_TRUST = ("trust_coefficient", "trust_clip")
_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
_TOKENS = ("cls_token", "reg_token", "dist_token", "mask_token", "pos_embed")


class OptimConfig(Frozen):
    """How weights are updated. The defaults are SimCLR's (arXiv:2002.05709), for LARS at large
    batches."""

    name: Literal["sgd", "lars", "adamw"] = Field(default="lars", description="optimiser")
    lr: float = Field(default=0.3, gt=0, description="peak learning rate at a global batch of 256")
    lr_scaling: Literal["linear", "sqrt", "none"] = Field(
        default="linear", description="how the peak learning rate grows with global batch / 256"
    )
    weight_decay: float = Field(
        default=1e-6,
        ge=0,
        description="weight decay, for adamw decoupled; none on biases and norms",
    )
    final_weight_decay: float | None = Field(
        default=None,
        ge=0,
        description="weight decay at the last step, reached along half a cosine; null: constant",
    )
    no_decay_lr_scale: float = Field(
        default=1.0,
        gt=0,
        description="multiplies the learning rate of biases and norms, which have no weight decay",
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of sgd and lars")
    betas: tuple[float, float] = Field(
        default=(0.9, 0.999), description="adamw: decay of its two running means, in [0, 1)"
    )
    trust_coefficient: float = Field(
        default=1e-3, gt=0, description="lars: size of a step beside its weights'"
    )
    trust_clip: bool = Field(
        default=False, description="lars: only ever lower a layer's learning rate, as LARC does"
    )
    warmup_fraction: float = Field(
        default=0.05, ge=0, le=1, description="linear warm-up, as a fraction of num_steps"
    )
    warmup_steps: int | None = Field(
        default=None, ge=0, description="linear warm-up in steps; null: see warmup_fraction"
    )
    min_lr_fraction: float = Field(
        default=0.0, ge=0, le=1, description="last learning rate, as a fraction of the peak"
    )
    clip_grad_norm: float | None = Field(
        default=None, gt=0, description="largest norm of the gradient; null: no limit"
    )
    clip_by: Literal["all", "parameter"] = Field(
        default="all",
        description=(
            "what clip_grad_norm limits: the norm of all gradients together, or that of each"
            " parameter's own (dino)"
        ),
    )
    schedule: Literal["cosine", "infinite"] = Field(
        default="cosine",
        description=(
            "learning rate after the warm-up: half a cosine; infinite: constant, and down over the"
            " last cooldown_fraction, before which a later run can take up the thread"
        ),
    )
    cooldown_fraction: float = Field(
        default=0.2, ge=0, le=1, description="infinite: last share of num_steps, where it falls"
    )

    @classmethod
    def voided_by(cls, key: str, values: dict[str, Any]) -> tuple[str, ...]:
        """Return what a length of the warm-up leaves of the other way to give one."""
        return other_of(("warmup_fraction", "warmup_steps"), key, values)

    def idle(self) -> dict[str, str]:
        """Return what the optimiser has no use for."""
        own = {"adamw": ("betas",), "sgd": ("momentum",), "lars": ("momentum", *_TRUST)}[self.name]
        idle = dict.fromkeys({"betas", "momentum", *_TRUST} - set(own), "name")
        if self.clip_grad_norm is None:
            idle["clip_by"] = "clip_grad_norm"
        return idle | ({"cooldown_fraction": "schedule"} if self.schedule == "cosine" else {})


class DiscriminatorOptimConfig(OptimConfig):
    """How the weights of a discriminator are updated. The defaults are DCGAN's
    (arXiv:1511.06434)."""

    name: Literal["sgd", "lars", "adamw"] = Field(default="adamw", description="optimiser")
    lr: float = Field(default=2e-4, gt=0, description="peak learning rate")
    lr_scaling: Literal["linear", "sqrt", "none"] = Field(
        default="none", description="how the peak learning rate grows with global batch / 256"
    )
    betas: tuple[float, float] = Field(
        default=(0.5, 0.999), description="adamw: decay of its two running means, in [0, 1)"
    )
    weight_decay: float = Field(
        default=0.0, ge=0, description="weight decay; none on biases and norms"
    )
    warmup_fraction: float = Field(
        default=0.0, ge=0, le=1, description="linear warm-up, as a fraction of num_steps"
    )


class AdversarialOptimConfig(OptimConfig):
    """How the weights of a method with a discriminator are updated; its own are under
    `discriminator`."""

    discriminator: DiscriminatorOptimConfig = DiscriminatorOptimConfig()


Role = Literal["main", "discriminator"]


class ParamGroup(TypedDict):
    """Parameters that one rule governs; without `decay` they have neither weight decay nor LARS's
    adaptation."""

    name: str
    params: list[nn.Parameter]
    decay: bool
    fixed_lr: NotRequired[bool]
    """The peak learning rate from first step to last."""
    optimizer: NotRequired[Role]
    """Which optimiser governs them: main where left out."""
    lr_scale: NotRequired[float]
    """Multiplies their learning rate."""
    thaws_at: NotRequired[int]
    """The step before which they wait; their own warm-up begins there."""
    pulled: NotRequired[bool]
    """Whether they are pulled towards their start, and so not towards zero by weight decay."""
    own_decay: NotRequired[float]
    """Their first weight decay, in place of the configuration's."""
    clipped: NotRequired[str]
    """Whose gradients are clipped with theirs: those of one word; of all groups without one."""


def peak_lr(config: OptimConfig, global_batch_size: int) -> float:
    """Return the learning rate at the end of the warm-up, scaled to the global batch.

    Linear scaling is arXiv:1706.02677's; the square root is SimCLR's for small batches
    (arXiv:2002.05709, B.1).
    """
    ratio = global_batch_size / _BASE_BATCH_SIZE
    return config.lr * {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}[config.lr_scaling]


def lr_at(step: int, num_steps: int, peak: float, config: OptimConfig) -> float:
    """Return the learning rate of a step: a linear rise, then half a cosine (arXiv:1608.03983), or
    nothing new until the cool-down, which falls as 1 - sqrt (arXiv:2405.18392).

    Args:
        step: Steps already made, from 0; the first step of a warm-up of n has peak / n, not zero.
        num_steps: Steps of the whole run. A warm-up longer than the run is cut off, not compressed.
        peak: The scaled learning rate, `peak_lr`.
        config: Names the warm-up and the floor.
    """
    warmup = _warmup_steps(num_steps, config)
    if step < warmup:
        return peak * (step + 1) / warmup
    low = config.min_lr_fraction
    if config.schedule == "infinite":
        begin = cooldown_start(num_steps, config)
        falling = max(0, step - begin) / max(1, num_steps - begin)
        return peak * (low + (1 - low) * (1 - math.sqrt(min(1.0, falling))))
    progress = min(1.0, (step - warmup) / max(1, num_steps - warmup))
    return peak * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress)))


def cooldown_start(num_steps: int, config: OptimConfig) -> int:
    """Return the step before which the learning rate of an infinite schedule has not fallen."""
    return num_steps - round(config.cooldown_fraction * num_steps)


def _warmup_steps(num_steps: int, config: OptimConfig) -> int:
    if config.warmup_steps is not None:
        return config.warmup_steps
    return round(config.warmup_fraction * num_steps)


def _thawed_lr(lr: float, steps: int, peak: float, warmup: int) -> float:
    """Return the learning rate of parameters that waited, `steps` after they begin to learn."""
    if steps < 0:
        return 0.0
    return min(lr, peak * (steps + 1) / warmup) if warmup else lr


def weight_decay_at(
    step: int, num_steps: int, config: OptimConfig, first: float | None = None
) -> float:
    """Return the weight decay of a step: half a cosine from the first to the final one.

    Args:
        step: Steps already made, from 0.
        num_steps: Steps of the whole run.
        config: Names both.
        first: In place of the configuration's.
    """
    begin = config.weight_decay if first is None else first
    last = begin if config.final_weight_decay is None else config.final_weight_decay
    return last + (begin - last) * 0.5 * (1 + math.cos(math.pi * step / num_steps))


def set_schedule(
    optimizer: torch.optim.Optimizer, config: OptimConfig, *, step: int, num_steps: int, peak: float
) -> float:
    """Set the coming step's learning rate and weight decay in every group of the optimiser.

    Returns:
        The learning rate of the groups that follow the schedule.
    """
    lr = lr_at(step, num_steps, peak, config)
    warmup = _warmup_steps(num_steps, config)
    for group in optimizer.param_groups:
        own = peak if group["fixed_lr"] else lr
        if thaws_at := group.get("thaws_at", 0):
            own = _thawed_lr(own, step - thaws_at, peak, warmup)
        group["lr"] = own * group.get("lr_scale", 1.0)
        decays = group["decay"] and not group.get("pulled", False)
        decay = weight_decay_at(step, num_steps, config, group.get("own_decay"))
        group["weight_decay"] = decay if decays else 0.0
    return lr


def param_groups(module: nn.Module) -> list[ParamGroup]:
    """Sort a module's trainable parameters into those that decay and those that do not.

    Returns:
        The groups "decay" and "no_decay", each left out where empty. Without decay: biases and
        every other parameter of at most one dimension, normalisation layers, class, register and
        mask tokens, position embeddings. A shared parameter is listed once.
    """
    decay: list[nn.Parameter] = []
    no_decay: list[nn.Parameter] = []
    seen: set[nn.Parameter] = set()
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            plain = (
                parameter.ndim <= 1
                or isinstance(owner, _NORMS)
                or "bias" in name
                or name.endswith(_TOKENS)
            )
            (no_decay if plain else decay).append(parameter)
    both: list[ParamGroup] = [
        {"name": "decay", "params": decay, "decay": True},
        {"name": "no_decay", "params": no_decay, "decay": False},
    ]
    return [group for group in both if group["params"]]


def adversarial_groups(method: nn.Module) -> list[ParamGroup]:
    """Sort parameters as `param_groups` does, and give those of a method's part called
    `discriminator` to the second optimiser.

    Args:
        method: Its children's trainable parameters are grouped; none of its own.
    """
    groups: list[ParamGroup] = []
    for role in ("main", "discriminator"):
        parts = nn.ModuleList(
            part
            for name, part in method.named_children()
            if (name == "discriminator") == (role == "discriminator")
        )
        for group in param_groups(parts):
            group["name"] = f"{role}_{group['name']}"
            group["optimizer"] = "main" if role == "main" else "discriminator"
            groups.append(group)
    return groups


def build_optimizer(
    groups: Sequence[ParamGroup], config: OptimConfig, lr: float
) -> torch.optim.Optimizer:
    """Build the optimiser of a run; its groups keep their names for the schedule.

    Args:
        groups: As `param_groups` gives them; every group has its name once.
        config: Names the optimiser and its constants.
        lr: Learning rate to begin with; the training loop calls `set_schedule` every step.

    Raises:
        ValueError: no trainable parameter, or a group name used twice.
    """
    names = [group["name"] for group in groups]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"param groups must be at least one, with names of their own; got {names}")
    torch_groups: list[dict[str, Any]] = []
    for group in groups:
        options: dict[str, Any] = {"fixed_lr": False, **group}
        if not group["decay"]:
            options["lr_scale"] = group.get("lr_scale", 1.0) * config.no_decay_lr_scale
        decay = group.get("own_decay", config.weight_decay)
        options["weight_decay"] = decay if group["decay"] else 0.0
        if config.name == "lars":
            options["adapt"] = group["decay"]
        torch_groups.append(options)
    if config.name == "adamw":
        return torch.optim.AdamW(torch_groups, lr=lr, betas=config.betas, fused=True)
    if config.name == "sgd":
        return torch.optim.SGD(torch_groups, lr=lr, momentum=config.momentum)
    return LARS(
        torch_groups,
        lr=lr,
        momentum=config.momentum,
        trust_coefficient=config.trust_coefficient,
        trust_clip=config.trust_clip,
    )
