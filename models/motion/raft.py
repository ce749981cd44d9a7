"""Optical flow by RAFT (Teed & Deng 2020, arXiv:2003.12039): torchvision's network, with weights
that the user brings, on the device that trains."""

import math
import re
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.starting.weight_files import read_weights

RaftKind = Literal["raft_small", "raft_large"]
RAFTS: tuple[RaftKind, ...] = get_args(RaftKind)
_KEY = "clip.flow_weights"
_LEAST_PX = 128  # its pyramid of correlations needs as many
_MULTIPLE_PX = 8
_PAIRS = 32  # of frames at once
_WRAPPED = re.compile(r"^((module|model|state_dict)\.)+")  # before names, by training or saving


class Raft:
    """Finds the flow between the frames of clips.

    Args:
        kind: Which of torchvision's networks.
        weights: File of its state dict, as torchvision publishes it: a path or URI.
        device: Where it computes.

    Raises:
        ValueError: the file is none, or not of this network.
    """

    def __init__(self, kind: RaftKind, weights: str, device: str | torch.device = "cpu") -> None:
        self._network = _network(kind, weights).to(device)

    @torch.no_grad()  # no inference mode: a loss may keep what this gives
    def __call__(self, clips: Tensor) -> Tensor:
        """Find where each place of a frame has moved to in the next.

        Frames are enlarged to what the network takes; pairs that are the same have none.

        Args:
            clips: (..., T, 3, S, S) uint8 RGB on the device, T >= 2.

        Returns:
            (..., T - 1, 2, S, S) float16: how far to the right and how far down, px.
        """
        frames = clips.flatten(0, -5)  # (N, T, 3, S, S)
        pairs = zip(
            frames[:, :-1].flatten(0, 1).split(_PAIRS),
            frames[:, 1:].flatten(0, 1).split(_PAIRS),
            strict=True,
        )
        flow = torch.cat([self._between(first, second) for first, second in pairs])
        shape = (*clips.shape[:-4], clips.shape[-4] - 1, *flow.shape[1:])
        return flow.view(shape)

    def _between(self, first: Tensor, second: Tensor) -> Tensor:
        height, width = first.shape[-2:]
        larger = [max(_LEAST_PX, _round_up(side)) for side in (height, width)]
        before, after = (
            functional.interpolate(frames.float() / 127.5 - 1, larger, mode="bilinear")
            for frames in (first, second)
        )
        flow: Tensor = self._network(before, after)[-1]  # (N, 2, *larger)
        flow = functional.interpolate(flow, (height, width), mode="area")
        scale = flow.new_tensor([width / larger[1], height / larger[0]]).view(1, 2, 1, 1)
        moved = (first != second).flatten(1).any(dim=1).view(-1, 1, 1, 1)
        return (flow * scale * moved).half()


def _round_up(side: int) -> int:
    return math.ceil(side / _MULTIPLE_PX) * _MULTIPLE_PX


def _network(kind: RaftKind, weights: str) -> nn.Module:
    """Build a network with weights from a file.

    Raises:
        ValueError: the file is none, or not of this network.
    """
    from torchvision.models import optical_flow  # here, as it takes a while to import

    network: nn.Module = getattr(optical_flow, kind)(weights=None)
    read = read_weights(weights, key=_KEY)
    found = {_WRAPPED.sub("", name, count=1): tensor for name, tensor in read.items()}
    own = network.state_dict()
    missing = [name for name in own if name not in found]
    other = [
        name for name, tensor in own.items() if name in found and found[name].shape != tensor.shape
    ]
    if missing or other:
        what = f"lacks {len(missing)} of its {len(own)} tensors, {missing[0]} first"
        if not missing:
            what = f"has {other[0]} of another shape"
        raise ValueError(
            f"{_KEY} {weights} is not of torchvision's {kind}: it {what}; give the .pth file that"
            f" torchvision publishes for {kind}, or set the other of {', '.join(RAFTS)}"
        )
    network.load_state_dict({name: found[name] for name in own})
    return network.eval().requires_grad_(False)
