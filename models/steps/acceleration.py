"""What makes a training step faster, or smaller in memory, without changing what it computes: the
encoder compiled, and activations computed again in the backward pass instead of being kept."""

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from augment.rng import let_compile
from models.encoders.encoder import Encoder

_VARIANTS = 64
"""Compiled forms of one function at most: sizes of views, with and without gradient, kinds of mask,
stages of a convolutional network."""
_LEAST_WEIGHTS = 2
_COMPILERS = ("c++", "g++", "clang++")


def repeated_blocks(network: nn.Module) -> list[nn.Module]:
    """Find the blocks that a network is a stack of: a transformer's layers, a ResNet's residual
    blocks.

    They are the members of the innermost `Sequential` or `ModuleList` whose members are all of one
    class and have at least two weights each, in the network's order.
    """
    found = list[nn.Module]()
    for part in network.children():
        inner = repeated_blocks(part)
        found += inner or (
            _stacked(part) if isinstance(part, nn.Sequential | nn.ModuleList) else []
        )
    return found


def _stacked(container: nn.Sequential | nn.ModuleList) -> list[nn.Module]:
    """Return the members of a container where they are blocks, else none."""
    members = list(container)
    if not members or len({type(member) for member in members}) > 1:
        return []
    return members if all(_num_weights(member) >= _LEAST_WEIGHTS for member in members) else []


def _num_weights(module: nn.Module) -> int:
    return sum(parameter.ndim > 1 for parameter in module.parameters())


def recompute(encoder: Encoder) -> None:
    """Keep of each block its input only, and compute the rest again in the backward pass (arXiv:
    1604.06174): memory of one block instead of all, for a third more computation.

    Blocks are changed in place; parameters and state dict stay as they are.

    Raises:
        ValueError: the encoder is no stack of blocks.
    """
    blocks = repeated_blocks(encoder)
    if not blocks:
        raise ValueError(
            f"train.checkpoint_activations has no effect on encoder.name={encoder.name}, which is"
            " no stack of blocks: leave it out"
        )
    for block in blocks:
        block.forward = partial(_again, block, block.forward)


def _again(block: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _still_statistics(block)

    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)


@contextmanager
def _still_statistics(block: nn.Module) -> Iterator[None]:
    """Leave the running statistics of batch norms where they are, while batches are seen again."""
    norms = [part for part in block.modules() if isinstance(part, _BatchNorm)]
    before = [(norm, norm.momentum, _count(norm)) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count in before:
            norm.momentum = momentum
            if norm.num_batches_tracked is not None and count is not None:
                norm.num_batches_tracked.copy_(count)


def _count(norm: _BatchNorm) -> Tensor | None:
    seen = norm.num_batches_tracked
    return None if seen is None else seen.clone()


def compile_encoder(encoder: Encoder, *, by_blocks: bool) -> None:
    """Compile an encoder for views of fixed sizes, at its first calls.

    Parameters and state dict stay as they are. `uncompiled` goes around it.

    Args:
        encoder: Changed in place.
        by_blocks: Compile each block instead of all that methods call. What comes between them
            stays as it is: to `recompute` blocks, or to gather the divided parameters of one.
    """
    let_compile()
    dynamo = torch._dynamo.config
    dynamo.recompile_limit = max(dynamo.recompile_limit, _VARIANTS)
    if by_blocks:
        for block in repeated_blocks(encoder):
            block.forward = torch.compile(block.forward, dynamic=False)
        return
    # what methods call of an encoder
    encoder.forward = torch.compile(encoder.forward, dynamic=False)  # type: ignore[method-assign]
    encoder.maps = torch.compile(encoder.maps, dynamic=False)  # type: ignore[method-assign]
    encoder.tokens = torch.compile(encoder.tokens, dynamic=False)  # type: ignore[method-assign]


def uncompiled() -> AbstractContextManager[None]:
    """Call compiled encoders as they are written, for calls too rare to compile for."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()  # nothing was compiled
    eager: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return eager


def can_compile() -> bool:
    """Tell whether this machine has the C++ compiler that `torch.compile` asks for."""
    return any(shutil.which(name) for name in _COMPILERS)
