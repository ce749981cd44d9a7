"""What tells made pictures from real ones, and how a method trains it beside its own networks."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

_SLOPE = 0.2
_SMALLEST = 4  # side of the last map, px
_WIDEST = 8  # most channels of a stage, as a multiple of the first one's


class Discriminator(nn.Module):
    """Score images by strided convolutions: DCGAN's discriminator (arXiv:1511.06434).

    Each stage halves the image and doubles the channels until it is 4 px wide; batch norm in all
    stages but the first.

    Args:
        in_channels: C of the images or maps that are judged.
        size: Their side, px.
        width: Channels of the first stage; each later one has twice as many, up to 8 * width.
        beside: Features of a vector that is judged together with the image, as one pair (BiGAN,
            arXiv:1605.09782); 0: the image alone.
    """

    def __init__(self, in_channels: int, size: int, *, width: int = 64, beside: int = 0) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        channels = in_channels
        out = width
        while size > _SMALLEST or not stages:
            stages.append(_stage(channels, out, norm=bool(stages)))
            channels = out
            out = min(2 * channels, _WIDEST * width)
            size = (size + 1) // 2
        self.stages = nn.Sequential(*stages)
        seen = channels * size**2 + beside
        self.judge: nn.Module = nn.Linear(seen, 1)
        if beside:
            hidden = _WIDEST * width
            self.judge = nn.Sequential(
                nn.Linear(seen, hidden), nn.LeakyReLU(_SLOPE), nn.Linear(hidden, 1)
            )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=_SLOPE)

    def forward(self, images: Tensor, beside: Tensor | None = None) -> Tensor:
        """Score images (B, C, S, S), with vectors (B, beside) where it judges pairs.

        Returns:
            (B,), the log odds that an image is real.
        """
        seen = self.stages(images).flatten(1)
        if beside is not None:
            seen = torch.cat([seen, beside.to(seen.dtype)], dim=1)
        judged: Tensor = self.judge(seen)
        return judged.squeeze(1)


def judged_by(discriminator: nn.Module, *inputs: Any) -> Tensor:
    """Score what a generator made, so that the gradient reaches the generator alone.

    The discriminator is called on its parameters detached: one backward pass of both losses then
    gives it no gradient for helping the generator.

    Args:
        discriminator: Gives log odds (B,) that its input is real.
        inputs: What it takes.
    """
    held = {name: value.detach() for name, value in discriminator.named_parameters()}
    judged: Tensor = functional_call(discriminator, held, inputs)
    return judged


def taken_for_real(judged: Tensor) -> Tensor:
    """Return the cross entropy of scores (B,) with "real", nats, float32: log 2 where it guesses.

    A generator minimises it on what it made (the loss that does not saturate, arXiv:1406.2661,
    section 3).
    """
    return functional.softplus(-judged.float())


def taken_for_made(judged: Tensor) -> Tensor:
    """Return the cross entropy of scores (B,) with "made", nats, float32: log 2 where it guesses.

    A discriminator minimises it on what was made, beside `taken_for_real` on what is real.
    """
    return functional.softplus(judged.float())


def _stage(in_channels: int, channels: int, *, norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, channels, kernel_size=3, stride=2, padding=1, bias=not norm)
    ]
    if norm:
        layers.append(nn.BatchNorm2d(channels))
    return nn.Sequential(*layers, nn.LeakyReLU(_SLOPE))
