"""A convolutional decoder from an encoder's maps to an image of any channels."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.encoders.encoder import Encoder

_WIDEST = 8  # most channels of a stage, as a multiple of the last one's


class MapDecoder(nn.Module):
    """Paint an image from feature maps: doubled by nearest neighbour, then convolved, stage by
    stage.

    Upsampling before a convolution leaves no checkerboard, as a strided transposed one does
    (Odena 2016, "Deconvolution and checkerboard artifacts"). The last convolution has neither norm
    nor activation: it gives normalised pixels, scores of classes, or whatever is asked of each
    pixel.

    Args:
        in_dim: Channels D of the maps, `Encoder.map_dim`.
        out_channels: C, numbers predicted of each pixel.
        grid: Rows and columns of the maps, as `map_grid` tells them.
        size: Side of the image to paint, px, at least the grid's.
        width: Channels of the last stage; each stage before has twice as many, up to 8 * width.
    """

    def __init__(
        self, in_dim: int, out_channels: int, grid: tuple[int, int], size: int, *, width: int = 32
    ) -> None:
        super().__init__()
        self.sizes = _stage_sizes(grid, size)
        factors = [min(2**index, _WIDEST) for index in reversed(range(len(self.sizes)))]
        channels = [in_dim, *(width * factor for factor in factors)]
        self.stages = nn.ModuleList(
            _stage(channels[index], channels[index + 1]) for index in range(len(self.sizes))
        )
        self.predict = nn.Conv2d(channels[-1], out_channels, kernel_size=3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.normal_(self.predict.weight, std=0.02)  # its first picture is about flat
        nn.init.zeros_(self.predict.get_parameter("bias"))

    def forward(self, maps: Tensor) -> Tensor:
        """Paint maps (B, D, h, w) as (B, C, size, size)."""
        for size, stage in zip(self.sizes, self.stages, strict=True):
            if maps.shape[2:] != size:
                maps = functional.interpolate(maps, size=size, mode="nearest")
            maps = stage(maps)
        painted: Tensor = self.predict(maps)
        return painted


@torch.no_grad()
def map_grid(encoder: Encoder, size: int) -> tuple[int, int]:
    """Return the rows and columns of an encoder's maps of an image, by encoding a blank one.

    Args:
        encoder: Gives maps; it is left in training mode.
        size: Side of the image, px.
    """
    encoder.eval()  # batch norm would refuse one value per channel, and would keep it
    rows, columns = encoder.maps(torch.zeros(1, 3, size, size)).shape[2:]
    encoder.train()
    return rows, columns


def _stage_sizes(grid: tuple[int, int], size: int) -> list[tuple[int, int]]:
    """List the sizes of the stages: the grid's, then twice as large until the image's."""
    sizes = [grid]
    while sizes[-1] != (size, size):
        rows, columns = sizes[-1]
        sizes.append((min(2 * rows, size), min(2 * columns, size)))
    return sizes


def _stage(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )
