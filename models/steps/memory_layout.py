"""How networks and images lie in memory: channels last, which convolutions are fastest with."""

import torch
from torch import Tensor, nn


def channels_last(network: nn.Module) -> None:
    """Lay out the kernels of a network, of images and of clips, in place."""
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            if layout := _LAYOUTS.get(tensor.ndim):
                tensor.data = tensor.contiguous(memory_format=layout)


def laid_out(images: Tensor) -> Tensor:
    """Lay out images (B, C, H, W); clips (B, T, C, H, W) are what they are, frame by frame."""
    if images.ndim != 4:
        return images.contiguous()
    return images.contiguous(memory_format=torch.channels_last)


_LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}
