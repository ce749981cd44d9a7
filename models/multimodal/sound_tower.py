"""An encoder of stretches of sound that knows what is heard and when in the stretch."""

from itertools import pairwise

import torch
from pydantic import Field
from torch import Tensor, nn

from augment.frozen import Frozen
from augment.sound.log_mel import log_mel
from models.blocks.heads import mlp

_NUM_MOMENTS = 4  # of a stretch, told apart by the projection
_NUM_GROUPS = 4
_SCALE = 4.0  # of natural logarithms of power, about the deviation of those of speech


class SoundTowerConfig(Frozen):
    """Which encoder of sound stands beside the encoder of frames."""

    width: int = Field(
        default=64,
        ge=4,
        multiple_of=4,
        description="channels of the first of five convolutions; the last has 8 times as many",
    )


class SoundTower(nn.Module):
    """Convolutions over the log-mel spectrum, and a projection of what they found at some moments.

    How loud a stretch is as a whole is taken away: it tells recordings apart and not what is heard.
    Convolutions are normalised within a sample, so that a stretch is encoded alike whatever it is
    compared with.

    Args:
        config: What it is built of.
        rate: Samples a second.
        dim: P, features of the projection.
    """

    def __init__(self, config: SoundTowerConfig, rate: int, dim: int) -> None:
        super().__init__()
        self.rate = rate
        channels = [1, *(config.width * factor for factor in (1, 1, 2, 4, 8))]
        layers = list[nn.Module]()
        for index, (before, after) in enumerate(pairwise(channels)):
            stride = 2 if index else 1
            layers.append(nn.Conv2d(before, after, 3, stride, padding=1, bias=False))
            layers += [nn.GroupNorm(_NUM_GROUPS, after), nn.ReLU(inplace=True)]
        self.convolutions = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d((1, _NUM_MOMENTS))
        dims = (_NUM_MOMENTS * channels[-1], channels[-1], dim)
        self.projection = mlp(dims, norm=False, last_bias=False)

    def forward(self, sounds: Tensor) -> Tensor:
        """Project stretches of sound (B, L), full scale is 1, as (B, P)."""
        with torch.autocast(sounds.device.type, enabled=False):
            spectrum = log_mel(sounds, self.rate)  # (B, M, T)
            spectrum = (spectrum - spectrum.mean(dim=(1, 2), keepdim=True)) / _SCALE
        found = self.pool(self.convolutions(spectrum.unsqueeze(1)))  # (B, C, 1, moments)
        projected: Tensor = self.projection(found.flatten(1))
        return projected
