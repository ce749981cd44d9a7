"""Convolutional networks over clips: those of images inflated through time, and torchvision's."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.encoders.encoder import Encoder, Feature, Pooling, Tokens
from models.encoders.library import LibraryEncoder
from models.encoders.resnet_small import ChannelScale, ResNetSmall

_BLANK_FRAMES = 16  # of the clip that a network's sizes are found by


class InflatedEncoder(Encoder):
    """A small ResNet whose convolutions reach through time as well (I3D, arXiv:1705.07750).

    A kernel of 3 x 3 becomes 3 x 3 x 3, each of its three slices a third of it: of a clip that
    stands still, it makes away from the clip's ends what the network of images made of the frame.
    Where a stage halves height and width, it halves time.

    Args:
        image_encoder: The network of images; its weights are inflated.
    """

    core = "network"

    def __init__(self, image_encoder: ResNetSmall) -> None:
        super().__init__()
        self.embed_dim = image_encoder.embed_dim
        self._image_encoder_pools = image_encoder.poolings
        self.network = nn.ModuleDict({"stem": image_encoder.stem, "stages": image_encoder.stages})
        _inflate(self.network)

    @property
    def poolings(self) -> tuple[Pooling, ...]:
        """Return those over the places of the map."""
        return self._image_encoder_pools

    def supports(self, feature: Feature) -> bool:
        """Tell whether the encoder gives this: maps, of which the embedding is made."""
        return feature in ("maps", "trainable_maps")

    @property
    def depth(self) -> int:
        """Return the number of stages."""
        return len(self._stages())

    def _stages(self) -> list[nn.Module]:
        return list(self.network["stages"].children())

    def layers(self, clips: Tensor, wanted: Sequence[int]) -> list[Tensor | Tokens]:
        """Encode clips (B, T, 3, H, W) as the maps of some stages, averaged over time."""
        features = self.network["stem"](clips.transpose(1, 2))
        found: list[Tensor | Tokens] = []
        for number, stage in enumerate(self._stages()[: wanted[-1]], start=1):
            features = stage(features)
            if number in wanted:
                found.append(features.mean(dim=2))
        return found

    def maps(self, clips: Tensor) -> Tensor:
        """Encode clips (B, T, 3, H, W) as the last stage's map, averaged over time."""
        (last,) = self.layers(clips, [self.depth])
        assert isinstance(last, Tensor)
        return last

    def forward(self, clips: Tensor) -> Tensor:
        """Embed clips (B, T, 3, H, W) as (B, D)."""
        return self.pool(self.maps(clips))


class TorchvisionClipEncoder(LibraryEncoder):
    """A network of torchvision for clips, whose classifier was replaced by the identity."""

    def __init__(self, network: nn.Module, image_size: int, name: str) -> None:
        for module in list(network.modules()):
            for part_name, part in module.named_children():
                if isinstance(part, nn.Conv3d):
                    setattr(module, part_name, ClipConvolution.like(part))
        super().__init__(network, image_size, name)

    def forward(self, clips: Tensor) -> Tensor:
        """Embed clips (B, T, 3, H, W) as (B, D)."""
        if self.pooling != "auto":
            return self.pool(self.maps(clips))
        features: Tensor = self.network(clips.transpose(1, 2))
        return features.flatten(1)

    def maps(self, clips: Tensor) -> Tensor:
        """Encode clips by what comes before the average pooling, averaged over time."""
        features = clips.transpose(1, 2)
        for name, part in self.network.named_children():
            if name == "avgpool":
                return features.mean(dim=2)
            features = part(features)
        raise NotImplementedError(f"{self.name} has no pooling of a name of its own")

    def _sample_shape(self) -> tuple[int, ...]:
        return (_BLANK_FRAMES, *super()._sample_shape())


def _inflate(network: nn.Module) -> None:
    """Put convolutions and norms over clips in the place of those over images."""
    for name, part in network.named_children():
        if isinstance(part, nn.Conv2d):
            setattr(network, name, _inflated(part))
        elif isinstance(part, nn.BatchNorm2d):
            setattr(network, name, nn.BatchNorm3d(part.num_features))
        elif isinstance(part, ChannelScale):
            setattr(network, name, ClipScale(part))
        else:
            _inflate(part)


class ClipScale(ChannelScale):
    """A learned scale and shift of each channel of (B, C, T, H, W), at first those of images."""

    def __init__(self, of_images: ChannelScale) -> None:
        super().__init__(len(of_images.weight))
        self.load_state_dict(of_images.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        """Return x scaled and shifted."""
        shape = (-1, 1, 1, 1)
        return torch.addcmul(self.bias.view(shape), x, self.weight.view(shape))


class ClipConvolution(nn.Conv3d):
    """A convolution over clips (B, C, T, H, W) that lays the empty instants around two by hand.

    oneDNN's gradient of bfloat16 weights reads memory that nobody wrote where a clip of two
    instants is padded in time (torch 2.14, AVX-512): it is not a number every few steps.
    """

    @classmethod
    def like(cls, convolution: nn.Conv3d) -> "ClipConvolution":
        """Take over another's settings and weights."""
        made = cls(1, 1, 1)
        made.__dict__.update(convolution.__dict__)
        return made

    def forward(self, x: Tensor) -> Tensor:
        """Return the clips convolved."""
        if x.shape[2] != 2 or x.device.type != "cpu":
            return super().forward(x)
        assert not isinstance(self.padding, str)
        through_time, high, wide = self.padding
        x = F.pad(x, (0, 0, 0, 0, through_time, through_time))
        return F.conv3d(
            x, self.weight, self.bias, self.stride, (0, high, wide), self.dilation, self.groups
        )


def _inflated(convolution: nn.Conv2d) -> nn.Conv3d:
    size = convolution.kernel_size[0]
    stride = convolution.stride[0] if size > 1 else _every(convolution)
    made = ClipConvolution(
        convolution.in_channels,
        convolution.out_channels,
        kernel_size=size,
        stride=stride,
        padding=size // 2,
        bias=False,
    )
    with torch.no_grad():
        slices = convolution.weight.unsqueeze(2).expand(-1, -1, size, -1, -1)
        made.weight.copy_(slices / size)
    return made


def _every(projection: nn.Conv2d) -> int:
    """Return the step of a projection, which cuts its places out itself."""
    return int(getattr(projection, "every", projection.stride[0]))
