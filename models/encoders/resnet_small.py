"""ResNet-18 (He 2015, arXiv:1512.03385) for images of 32 to 96 px, as SimCLR alters it (arXiv:2002.05709, B.9)."""

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from models.encoders.encoder import Encoder

_BLOCKS_PER_STAGE = 2
_WIDTH_FACTORS = (1, 2, 4, 8)


class ResNetSmall(Encoder):
    """ResNet-18 that keeps the resolution of a small image: 3x3 stem of stride 1 and no max-pool.

    The feature map is S/8 px wide at the end (4 x 4 for 32 px); the embedding is its spatial mean.

    Args:
        width: Channels w of the first stage; the stages have w, 2w, 4w and 8w. 64 is the usual ResNet-18, 16 trains
            on a CPU.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.embed_dim = width * _WIDTH_FACTORS[-1]
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, kernel_size=3, stride=1, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        channels = [width, *(width * factor for factor in _WIDTH_FACTORS)]
        self.stages = nn.Sequential(
            *(_stage(channels[i], channels[i + 1], stride=1 if i == 0 else 2) for i in range(len(_WIDTH_FACTORS)))
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Embed images (B, 3, S, S) as (B, 8 * width)."""
        features: Tensor = self.stages(self.stem(images))  # (B, D, S/8, S/8)
        return features.mean(dim=(2, 3))  # (B, D)


def _stage(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    shortcut = None
    if stride != 1 or in_channels != channels:
        shortcut = nn.Sequential(
            nn.Conv2d(in_channels, channels, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(channels)
        )
    blocks = [BasicBlock(in_channels, channels, stride, shortcut)]
    blocks += [BasicBlock(channels, channels) for _ in range(_BLOCKS_PER_STAGE - 1)]
    return nn.Sequential(*blocks)
