"""How an artifact wants its images, sounds or texts."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from augment.execution.boxes import fitted
from augment.frozen import Frozen

_Positive = Annotated[float, Field(gt=0)]


class AnyPreprocess(Frozen):
    """How a sample of any medium becomes the encoder's input."""

    image_size: int = Field(
        ge=1, description="side of the input, pixels; of sounds samples, of texts tokens"
    )


class SoundPreprocess(AnyPreprocess):
    """How a window of sound becomes the encoder's input."""

    rate: int = Field(ge=1, description="samples a second, to which sounds are resampled, Hz")
    std: float = Field(gt=0, description="divides samples in [-1, 1]")


class TextPreprocess(AnyPreprocess):
    """How a text becomes the encoder's input, `image_size` tokens."""

    tokenizer: str = Field(min_length=1, description="as models.texts.tokenizer.learn returned it")


class Preprocess(AnyPreprocess):
    """How an image becomes the encoder's input."""

    image_size: int = Field(ge=1, description="side of the input, pixels")
    mean: tuple[float, float, float] = Field(description="subtracted from RGB in [0, 1]")
    std: tuple[_Positive, _Positive, _Positive] = Field(
        description="divides RGB in [0, 1] after the mean is subtracted"
    )
    value_range: Literal["auto", "type"] | tuple[float, float] = Field(
        "auto", description="which values of images of more than 8 bits are black and white"
    )
    bands: tuple[int, ...] = Field((), description="channels of TIFF files that were shown")
    num_frames: int = Field(1, ge=1, description="frames of a clip, for encoders of clips")
    frame_stride: int = Field(
        1, ge=1, description="frames of the video from one frame of a clip to the next"
    )
    fps: float | None = Field(
        None, gt=0, description="frames per second of a clip; null: by frame_stride"
    )


def central_square(images: Tensor, size: int) -> Tensor:
    """Resize the largest centred square of images, antialiased.

    Args:
        images: (B, 3, H, W) uint8 RGB.
        size: S, side of the result, px.

    Returns:
        (B, 3, S, S) float32 in [0, 1].

    Raises:
        ValueError: the images are not uint8 with three channels.
    """
    _check_pixels(images)
    side = min(images.shape[2:])
    top = (images.shape[2] - side) // 2
    left = (images.shape[3] - side) // 2
    square = images[:, :, top : top + side, left : left + side]
    return _resized(square.float() / 255, size, size)  # (B, 3, S, S)


def neutral(mean: Sequence[float]) -> tuple[int, int, int]:
    """Return the colour, RGB in [0, 255], that is nearest to a mean in [0, 1]: what lies beside an
    image shows no edge that means something, as black does."""
    red, green, blue = (round(value * 255) for value in mean)
    return red, green, blue


def fitted_whole(images: Tensor, size: int, mean: Tensor) -> Tensor:
    """Resize images until their longer side is S, into the upper left corner of a square.

    Args:
        images: (B, 3, H, W) uint8 RGB.
        size: S, side of the result, px.
        mean: (3, 1, 1), the colour of the rest, in [0, 1].

    Returns:
        (B, 3, S, S) float32 in [0, 1].

    Raises:
        ValueError: the images are not uint8 with three channels.
    """
    _check_pixels(images)
    height, width = fitted(images.shape[2], images.shape[3], size)
    pixels = mean.expand(len(images), 3, size, size).clone()
    pixels[:, :, :height, :width] = _resized(images.float() / 255, height, width)
    return pixels


def _check_pixels(images: Tensor) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"images must be (B, 3, H, W) uint8, got {tuple(images.shape)} {images.dtype}"
        )


def _resized(pixels: Tensor, height: int, width: int) -> Tensor:
    if pixels.shape[2:] == (height, width):
        return pixels
    return functional.interpolate(
        pixels, size=(height, width), mode="bilinear", antialias=True, align_corners=False
    )
