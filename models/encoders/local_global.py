"""AMDIM's encoder (Bachman 2019, arXiv:1906.00910): feature grids whose places see a known part of
the image."""

from torch import Tensor, nn

from models.encoders.encoder import Encoder, Feature, Tokens

_DEPTH = 3  # convolutions of a stage
_SMALLEST = 16


class LocalGlobalEncoder(Encoder):
    """A residual network without padding, in which only the first convolution of a stage looks
    beyond its place.

    Padding would tell a place where the border is, and wide kernels would let neighbouring places
    see the same pixels. At 32 px the grids are 30 -> 14 -> 7 -> 5 -> 3 -> 1, and a place of the 7 x
    7 grid sees 8 x 8 px every 4 px, one of the 5 x 5 grid 16 x 16 px, the last one everything.
    Twice the side has one more stage before them.

    Args:
        image_size: Side of the image, pixels: 16, 32, 64, 128 or 256.
        width: Channels w of the first stage; local features have 4w, the embedding 8w.

    Attributes:
        local_dim: 4w, channels of both grids of local features.

    Raises:
        ValueError: the grids do not come out at 7 and 5 for this size.
    """

    def __init__(self, image_size: int, width: int = 64) -> None:
        super().__init__()
        halvings = (image_size // _SMALLEST).bit_length() - 1
        if image_size != _SMALLEST << max(halvings, 0) or halvings > 4:
            raise ValueError(
                "views.size must be 16, 32, 64, 128 or 256 for encoder.name=amdim, got"
                f" {image_size}"
            )
        self.local_dim = 4 * width
        self.embed_dim = 8 * width
        stages = [_stage(3, width, kernel=3, stride=1)]  # S - 2
        channels = width
        for kernel in [4] * halvings + [2]:  # to half: 30, 14 and at last 7
            out = min(2 * channels, self.local_dim) if kernel == 4 else self.local_dim
            stages.append(_stage(channels, out, kernel=kernel, stride=2))
            channels = out
        self.to_7 = nn.Sequential(*stages)
        self.to_5 = _stage(self.local_dim, self.local_dim, kernel=3, stride=1)
        self.to_1 = nn.Sequential(
            _stage(self.local_dim, self.local_dim, kernel=3, stride=1),
            _stage(self.local_dim, self.embed_dim, kernel=3, stride=1),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    @property
    def map_dim(self) -> int:
        """Return the channels of the feature maps: 4w."""
        return self.local_dim

    def supports(self, feature: Feature) -> bool:
        """Tell whether the encoder gives this: maps, and grids at three scales."""
        return feature in ("maps", "scales")

    def scales(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode images (B, 3, S, S) as maps (B, 4w, 7, 7), (B, 4w, 5, 5) and (B, 8w, 1, 1).

        The last one, flattened, is the embedding.
        """
        of_7 = self.to_7(images)
        of_5 = self.to_5(of_7)
        return of_7, of_5, self.to_1(of_5)

    def maps(self, images: Tensor) -> Tensor:
        """Encode images (B, 3, S, S) as the last local features (B, 4w, 5, 5)."""
        of_5: Tensor = self.to_5(self.to_7(images))
        return of_5

    def forward(self, images: Tensor) -> Tensor:
        """Embed images (B, 3, S, S) as (B, 8w): the global features."""
        return self.pool(self.maps(images))

    def _pool_auto(self, features: Tensor | Tokens) -> Tensor:
        embedding: Tensor = self.to_1(features).flatten(1)
        return embedding


class _Pointwise(nn.Module):
    """A residual pair of 1 x 1 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(channels, channels, kernel_size=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, kernel_size=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = (x + self.branch(x)).relu()
        return out


def _stage(in_channels: int, channels: int, *, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel_size=kernel, stride=stride, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        *(_Pointwise(channels) for _ in range(_DEPTH // 2)),
    )
