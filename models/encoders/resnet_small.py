"""ResNet-18 (He 2015, arXiv:1512.03385) for images of 32 to 96 px, as SimCLR alters it
(arXiv:2002.05709, B.9)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from models.encoders.encoder import Encoder, Feature, Pooling, Tokens
from models.encoders.visible import Visible

_BLOCKS_PER_STAGE = 2
_WIDTH_FACTORS = (1, 2, 4, 8)
_STRIDE = 8  # px of the image that a place of the last map stands for


class ResNetSmall(Encoder):
    """ResNet-18 that keeps the resolution of a small image: 3x3 stem of stride 1 and no max-pool.

    The feature map is S/8 px wide at the end (4 x 4 for 32 px); by itself the embedding is its
    mean.

    Args:
        width: Channels w of the first stage; the stages have w, 2w, 4w and 8w. 64 is the usual
            ResNet-18, 16 trains on a CPU.
        norm: "batch"; "layer", over one image's channels and pixels; or "none", a learned scale and
            shift of each channel in its place. Only batch norm mixes images.
        image_size: Side of the images it is built for, px.
    """

    def __init__(
        self,
        width: int = 64,
        norm: Literal["batch", "layer", "none"] = "batch",
        image_size: int = 32,
    ) -> None:
        super().__init__()
        side = image_size // _STRIDE
        self.patch_size = _STRIDE
        self.grid = (side, side)
        self._leaves_out = norm == "batch" and side * _STRIDE == image_size
        make_norm = _NORMS[norm]
        self.embed_dim = width * _WIDTH_FACTORS[-1]
        self.stem = nn.Sequential(
            _convolution(3, width, 1),
            make_norm(width),
            nn.ReLU(inplace=True),
        )
        channels = [width, *(width * factor for factor in _WIDTH_FACTORS)]
        self.stages = nn.Sequential(
            *(
                _stage(channels[i], channels[i + 1], 1 if i == 0 else 2, make_norm)
                for i in range(len(_WIDTH_FACTORS))
            )
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if isinstance(module, ResidualBlock) and norm != "batch":
                # Each branch would otherwise double the variance ("none"), or make all images
                # alike: layer norm keeps what ReLUs give them in common, batch norm takes it away.
                # All together now multiply it by e at most.
                nn.init.constant_(
                    module.bn2.get_parameter("weight"),
                    (_BLOCKS_PER_STAGE * len(_WIDTH_FACTORS)) ** -0.5,
                )

    @property
    def poolings(self) -> tuple[Pooling, ...]:
        """Return those over the places of the map."""
        return ("auto", "mean", "max", "gem")

    def supports(self, feature: Feature) -> bool:
        """Tell whether the encoder gives this: maps, of which the embedding is made, and their
        places."""
        return feature in ("maps", "trainable_maps") or (feature == "places" and self._leaves_out)

    def maps(self, images: Tensor) -> Tensor:
        """Encode images (B, 3, H, W) as the last stage's map (B, 8 * width, H/8, W/8)."""
        features: Tensor = self.stages(self.stem(images))
        return features

    def places(self, images: Tensor, keep: Tensor | None = None) -> Tokens:
        """Encode images (B, 3, H, W) as the places of the last stage's map, (B, H/8 * W/8, 8 *
        width), or as those of some, by these patches alone: (B, K, 8 * width)."""
        if keep is None:
            features = self.maps(images).flatten(2).mT
        else:
            seen = Visible(keep, (images.shape[2] // _STRIDE, images.shape[3] // _STRIDE))
            convolution, norm, relu = self.stem
            x = relu(seen.norm(norm, convolution(seen.hide(images))))
            for stage in self.stages.children():
                for block in stage.children():
                    x = block(x, seen)
            features = seen.take(x)[..., 0, 0]
        return Tokens(None, features[:, :0], features)

    @property
    def depth(self) -> int:
        """Return the number of stages."""
        return len(self.stages)

    def layers(self, images: Tensor, wanted: Sequence[int]) -> list[Tensor | Tokens]:
        """Encode images (B, 3, H, W) as the maps of some stages."""
        features = self.stem(images)
        found: list[Tensor | Tokens] = []
        for number, stage in enumerate(self.stages, start=1):
            if number > wanted[-1]:
                break
            features = stage(features)
            if number in wanted:
                found.append(features)
        return found

    def forward(self, images: Tensor) -> Tensor:
        """Embed images (B, 3, H, W) as (B, 8 * width)."""
        return self.pool(self.maps(images))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, as torchvision's `BasicBlock`, whose tensors have the
    same names.

    That library is not imported for it: it loads torch's compiler, which takes every process that
    embeds images a second or two.

    Args:
        in_channels: Channels of what comes in.
        channels: Channels of what goes out.
        stride: Of the first convolution.
        shortcut: Projection and norm of the input before it is added; None: it is added as it is.
        make_norm: Builds the norm of so many channels.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        shortcut: nn.Sequential | None,
        make_norm: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        self.conv1 = _convolution(in_channels, channels, stride)
        self.bn1 = make_norm(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _convolution(channels, channels, 1)
        self.bn2 = make_norm(channels)
        self.downsample = shortcut

    def forward(self, x: Tensor, seen: Visible | None = None) -> Tensor:
        """Return (B, channels, H / stride, W / stride) of (B, in_channels, H, W), computed of the
        patches that may be seen alone."""
        branch = self.relu(_normalised(self.bn1, self.conv1(x), seen))
        branch = _normalised(self.bn2, self.conv2(branch), seen)
        if self.downsample is not None:
            projection, norm = self.downsample
            x = _normalised(norm, projection(x), seen)
        added: Tensor = self.relu(branch + x)
        return added


def zero_last_norms(encoder: Encoder) -> None:
    """Begin with residual blocks that add nothing.

    Raises:
        ValueError: the encoder has no blocks of ResNet's.
    """
    from torchvision.models.resnet import BasicBlock, Bottleneck  # here, see `ResidualBlock`

    kinds = BasicBlock | Bottleneck | ResidualBlock
    blocks = [part for part in encoder.modules() if isinstance(part, kinds)]
    if not blocks:
        raise ValueError(
            f"encoder.zero_init_residual=true has no effect on encoder.name={encoder.name}, which"
            " has no residual blocks of ResNet's, or starts so by itself: leave it out"
        )
    for block in blocks:
        last = block.bn3 if isinstance(block, Bottleneck) else block.bn2
        nn.init.zeros_(last.get_parameter("weight"))


class ChannelScale(nn.Module):
    """A learned scale and shift of each channel of (B, C, H, W): what is left of a norm that
    measures nothing."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return x scaled and shifted."""
        return torch.addcmul(self.bias[:, None, None], x, self.weight[:, None, None])


class _Projection(nn.Conv2d):
    """A 1x1 convolution of every n-th place.

    The places are cut out first: the backward pass of a strided 1x1 convolution in channels_last
    overruns its memory on CPUs, where the channels are no multiple of 16 (torch 2.14).
    """

    def __init__(self, in_channels: int, channels: int, every: int) -> None:
        super().__init__(in_channels, channels, kernel_size=1, bias=False)
        self.every = every

    def forward(self, x: Tensor) -> Tensor:
        """Project (B, C, H, W) to (B, channels, H/n, W/n)."""
        return super().forward(x[:, :, :: self.every, :: self.every])


_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "layer": partial(nn.GroupNorm, 1),
    "none": ChannelScale,
}


def _normalised(norm: nn.Module, x: Tensor, seen: Visible | None) -> Tensor:
    normalised: Tensor = norm(x) if seen is None else seen.norm(norm, x)
    return normalised


def _convolution(in_channels: int, channels: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, channels, kernel_size=3, stride=stride, padding=1, bias=False)


def _stage(
    in_channels: int, channels: int, stride: int, make_norm: Callable[[int], nn.Module]
) -> nn.Sequential:
    shortcut = None
    if stride != 1 or in_channels != channels:
        shortcut = nn.Sequential(
            _Projection(in_channels, channels, stride),
            make_norm(channels),
        )
    blocks = [ResidualBlock(in_channels, channels, stride, shortcut, make_norm)]
    blocks += [
        ResidualBlock(channels, channels, 1, None, make_norm) for _ in range(_BLOCKS_PER_STAGE - 1)
    ]
    return nn.Sequential(*blocks)
