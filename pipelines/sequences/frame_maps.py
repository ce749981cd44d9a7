"""Feature maps of whole frames, whatever their shape, by encoders of images or of clips."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from models import artifact
from models.probing.patch_votes import colour_maps
from pipelines.embeddings.features import Features, as_maps
from pipelines.storage import uris


class FrameMaps:
    """Makes the maps of one encoder.

    An encoder of clips is shown an instant: where it sees frames one by one as that frame, else as
    a clip of the length it was trained on, in which nothing moves.

    Args:
        features: Of which encoder, before or after training, and which layer.
        device: Where it goes.
    """

    def __init__(self, features: Features, device: torch.device) -> None:
        uris.filesystem(features.artifact)  # the artifact opens its URI with plain fsspec
        load = artifact.untrained if features.kind == "untrained" else artifact.load
        self._artifact = load(features.artifact, device)
        self._encoder = self._artifact.encoder
        self._layers = features.layers(self._encoder.depth)
        by_frame = self._encoder.supports("frames")
        self._instants = 1 if by_frame else self._artifact.num_frames

    @property
    def side(self) -> int:
        """Return what the sides of frames must be multiples of, px."""
        return self._encoder.patch_size

    @torch.inference_mode()
    def __call__(self, frames: Tensor) -> Tensor:
        """Encode (B, 3, H, W) uint8 as (B, D, h, w) float32."""
        images = (frames.float() / 255 - self._artifact.mean) / self._artifact.std
        if self._instants is not None:
            images = images.unsqueeze(1).expand(-1, self._instants, -1, -1, -1)
        [layer] = self._encoder.layers(images, self._layers)
        return as_maps(layer, self._encoder, images).float()


class AllMaps:
    """Makes the maps of several encoders, and of colours alone on the grid of the first.

    Args:
        columns: Name to what is taken; at least one of an encoder.
        device: Where the encoders go.
    """

    def __init__(self, columns: Mapping[str, Features], device: torch.device) -> None:
        networks = {name: one for name, one in columns.items() if one.kind != "colour"}
        self._device = device
        self._networks = {name: FrameMaps(one, device) for name, one in networks.items()}
        self._colours = [name for name in columns if name not in networks]

    @property
    def side(self) -> int:
        """Return what the sides of frames must be multiples of, px."""
        return math.lcm(*(network.side for network in self._networks.values()))

    def __call__(self, frames: Tensor) -> dict[str, Tensor]:
        """Encode (B, 3, H, W) uint8 as (B, D, h, w) of each column, on the device."""
        images = frames.to(self._device)
        maps = {name: network(images) for name, network in self._networks.items()}
        height, width = next(iter(maps.values())).shape[2:]
        return maps | {name: colour_maps(images, (height, width)) for name in self._colours}
