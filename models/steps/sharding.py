"""Parameters, gradients and optimiser states divided among the workers (FSDP: Zhao 2023,
arXiv:2304.11277, in torch's second form), for encoders that do not fit a device beside them.

Checkpoints hold whole tensors, so they open on any number of workers, divided or not.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from models import collectives
from models.encoders.encoder import Encoder
from models.steps.acceleration import repeated_blocks

Value = TypeVar("Value")


def shard(method: nn.Module) -> None:
    """Divide a method's parameters among all workers, in place; its gradients are then averaged and
    divided in the backward pass.

    The blocks of its encoders are gathered one by one as they are needed, the rest at the start of
    `forward`. All workers must call, before an optimiser is built.
    """
    from torch.distributed.fsdp import fully_shard  # here, as few runs divide and it takes a second

    for encoder in _encoders(method):
        for block in repeated_blocks(encoder):
            fully_shard(block)
    fully_shard(method)


def _is_divided(value: Any) -> bool:
    tensors = sys.modules.get("torch.distributed.tensor")  # without it nothing is
    return tensors is not None and isinstance(value, tensors.DTensor)


def _encoders(method: nn.Module) -> list[Encoder]:
    """Return the encoders in a method that are not parts of other ones."""
    found = list[Encoder]()
    for part in method.children():
        found += [part] if isinstance(part, Encoder) else _encoders(part)
    return found


@contextmanager
def gathered(method: nn.Module) -> Iterator[None]:
    """Have what is divided ready to be called outside of `forward`, by all workers."""
    if not any(map(_is_divided, method.parameters())):
        yield
        return
    divided: Any = method
    divided.unshard()
    try:
        yield
    finally:
        divided.reshard()


def synchronise(method: nn.Module, *, wanted: bool) -> None:
    """Average gradients in the next backward pass, or only add them up."""
    divided: Any = method
    divided.set_requires_gradient_sync(wanted)


def whole(tensor: Tensor) -> Tensor:
    """Gather a tensor where it is divided; all workers must call."""
    divided: Any = tensor
    return divided.full_tensor() if _is_divided(tensor) else tensor


def whole_state(state: Any) -> Any:
    """Gather what is divided in the dictionaries and lists of a state, tensor by tensor, into the
    memory of rank 0's host: no device needs room for all of it. All workers must call.

    Returns:
        The state; on the other ranks None stands for what is divided.
    """
    if _is_divided(state):
        gathered_here = state.full_tensor()
        return gathered_here.cpu() if collectives.rank() == 0 else None
    if isinstance(state, Mapping):
        return {key: whole_state(item) for key, item in state.items()}
    return [whole_state(item) for item in state] if isinstance(state, list) else state


def parts_here(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the parts of tensors that this worker has; changing one changes the tensor."""
    some: Sequence[Any] = tensors
    return [each.to_local() if _is_divided(each) else each for each in some]


def laid_out(value: Tensor, like: Tensor) -> Tensor:
    """Divide a whole tensor, the same on all workers, as another one of its shape is."""
    if not _is_divided(like) or _is_divided(value) or value.shape != like.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    divided: Any = like
    value = value.to(like.device)
    mesh, placements = divided.device_mesh, divided.placements
    return distribute_tensor(value, mesh, placements, src_data_rank=None)


def laid_out_state(saved: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Divide a module's state of whole tensors as its present one is."""
    own = module.state_dict()
    return {
        name: laid_out(value, own[name]) if name in own else value for name, value in saved.items()
    }


def laid_out_optimizer(saved: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Divide an optimiser's state of whole tensors as its parameters are."""
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    states = {
        index: {
            name: laid_out(value, parameters[index]) if isinstance(value, Tensor) else value
            for name, value in state.items()
        }
        for index, state in saved["state"].items()
    }
    return {**saved, "state": states}
