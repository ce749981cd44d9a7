"""Training on from weights without destroying them.

New heads send noise through an encoder that is already good, and a peak learning rate that suits
random weights forgets in a hundred steps what took a million. Three remedies, for every method:
the encoder waits until the heads have learnt something, its layers learn the slower the nearer they
are to the pixels (arXiv:2106.08254 for its values), and its weights are pulled towards those that
it started from (L2-SP, Li 2018, arXiv:1802.01483).
"""

from collections import defaultdict

import torch
from pydantic import Field
from torch import Tensor, nn

from augment.frozen import Frozen
from models.encoders.depth import layers_of
from models.method import Method
from models.optim import ParamGroup


class StartConfig(Frozen):
    """How gently the weights that a run starts from are changed."""

    layer_decay: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description=(
            "each layer of the encoder learns at this times the rate of the one above it, the"
            " highest at this times the heads'"
        ),
    )
    frozen_steps: int = Field(
        default=0,
        ge=0,
        description="steps in which only the heads learn; the encoder's own warm-up follows",
    )
    pull: float = Field(
        default=0.0,
        ge=0,
        description=(
            "pull of the encoder's weights towards those of the start (L2-SP), in place of its"
            " weight decay and applied as that"
        ),
    )


def gentle_groups(method: Method, config: StartConfig) -> list[ParamGroup]:
    """Split a method's optimiser groups by the layers of its encoder.

    With the default settings they are the method's own.

    Raises:
        ValueError: the encoder's layers cannot be told apart.
    """
    groups = method.param_groups()
    if config == StartConfig():
        return groups
    layers = _layers(method, config)
    num_layers = max(layers.values()) + 1
    split = list[ParamGroup]()
    for group in groups:
        by_layer = defaultdict[int, list[nn.Parameter]](list)
        for parameter in group["params"]:
            by_layer[layers.get(parameter, num_layers)].append(parameter)
        for layer in sorted(by_layer):
            part: ParamGroup = {**group, "params": by_layer[layer]}
            if layer < num_layers:
                part["name"] = f"{group['name']}/layer{layer}"
                part["lr_scale"] = config.layer_decay ** (num_layers - layer)
                part["thaws_at"] = config.frozen_steps
                part["pulled"] = config.pull > 0
            split.append(part)
    return split


def _layers(method: Method, config: StartConfig) -> dict[nn.Parameter, int]:
    """Number the trained encoder's parameters by layer; without a decay all are one layer."""
    encoder = method.trained_encoder
    named = dict(encoder.named_parameters())
    if config.layer_decay == 1:
        return dict.fromkeys(named.values(), 0)
    layers = layers_of(encoder)
    return {parameter: layers[name] for name, parameter in named.items()}


class Anchor:
    """Holds an encoder in its first phase, and near its starting weights after it.

    Made while the encoder still has the weights that the run starts from, so before a checkpoint is
    restored.

    Args:
        method: What is trained.
        config: How gently.
    """

    def __init__(self, method: Method, config: StartConfig) -> None:
        self._config = config
        trained = method.trained_encoder.parameters()
        self._parameters = [parameter for parameter in trained if parameter.requires_grad]
        self._start = dict[nn.Parameter, Tensor]()
        if config.pull:
            self._start = {each: each.detach().clone() for each in self._parameters}

    @torch.no_grad()
    def hold(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Act on the gradients, or the weights, before the optimiser's step `step`, from 0 on.

        The gradients of a frozen encoder are dropped and not never computed: data-parallel training
        would wait for them, and would be built anew when it thaws.
        """
        if step < self._config.frozen_steps:
            for parameter in self._parameters:
                parameter.grad = None
            return
        if not self._config.pull:
            return
        decoupled = isinstance(optimizer, torch.optim.AdamW)
        for group in optimizer.param_groups:
            if group.get("pulled"):
                self._pull(group, decoupled=decoupled)

    def _pull(self, group: dict[str, object], *, decoupled: bool) -> None:
        """Add the penalty's gradient; AdamW, which decays weights beside it, moves the weights."""
        rate = float(group["lr"]) * self._config.pull  # type: ignore[arg-type]
        for parameter in group["params"]:  # type: ignore[attr-defined]
            if decoupled:
                parameter.lerp_(self._start[parameter], min(1.0, rate))
            elif parameter.grad is not None:
                parameter.grad.add_(parameter - self._start[parameter], alpha=self._config.pull)
