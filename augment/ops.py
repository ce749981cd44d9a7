"""The settings of every change a view can undergo besides its crop and flip."""

from typing import Annotated

from pydantic import AfterValidator, Field

from augment.frozen import Frozen


def _ascending(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"the lower bound comes first, got {bounds}")
    return bounds


Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
# eight times as bright is as far as the CPU's integers go
Strength = Annotated[float, Field(ge=0, le=7)]
Fraction = Annotated[float, Field(gt=0, le=1)]
PositiveRange = Annotated[tuple[Positive, Positive], AfterValidator(_ascending)]
FractionRange = Annotated[tuple[Fraction, Fraction], AfterValidator(_ascending)]


class ColorJitter(Frozen):
    """Brightness, contrast, saturation and hue changed in an order drawn for each image (as in
    torchvision)."""

    p: Probability = Field(default=0.8, description="probability that an image is changed")
    brightness: Strength = Field(
        default=0.8, description="factor drawn from [max(0, 1 - b), 1 + b]; 0 leaves it out"
    )
    contrast: Strength = Field(
        default=0.8, description="factor drawn from [max(0, 1 - c), 1 + c]; 0 leaves it out"
    )
    saturation: Strength = Field(
        default=0.8, description="factor drawn from [max(0, 1 - s), 1 + s]; 0 leaves it out"
    )
    hue: float = Field(
        default=0.2,
        ge=0,
        le=0.5,
        description="shift drawn from [-h, h], in turns of the colour circle",
    )


class Greyscale(Frozen):
    """Colour removed (luma of ITU-R BT.601), three equal channels kept."""

    p: Probability = Field(default=0.2, description="probability that an image turns grey")


class GaussianBlur(Frozen):
    """Blur by a Gaussian whose width is drawn for each image; the kernel spans a tenth of the
    view's side."""

    p: Probability = Field(default=0.5, description="probability that an image is blurred")
    sigma: PositiveRange = Field(
        default=(0.1, 2.0), description="range of the standard deviation, px of the view"
    )

    @staticmethod
    def taps(side: int) -> int:
        """Return the length of the kernel for views of this side: an odd tenth of it."""
        return max(3, side // 10 | 1)


class Solarize(Frozen):
    """Values at and above a threshold inverted."""

    p: Probability = Field(default=0.2, description="probability that an image is solarised")
    threshold: float = Field(
        default=0.5, ge=0, le=1, description="in units of white; 0.5 is 128 of 255"
    )


class QuarterTurns(Frozen):
    """A turn by 0, 90, 180 or 270 degrees, exact: no pixel is interpolated."""

    p: Probability = Field(
        default=1.0, description="probability that a turn is drawn; one in four leaves the image"
    )


class Rotate(Frozen):
    """A rotation about the centre, bilinear, with black corners."""

    p: Probability = Field(default=0.5, description="probability that an image is rotated")
    degrees: float = Field(
        default=180.0, gt=0, le=180, description="angle drawn from [-d, d], degrees"
    )


class Affine(Frozen):
    """Rotation, shift, zoom and shear at once, bilinear, with black outside."""

    p: Probability = Field(default=0.5, description="probability that an image is changed")
    degrees: float = Field(
        default=15.0, ge=0, le=180, description="angle drawn from [-d, d], degrees"
    )
    translate: float = Field(
        default=0.1, ge=0, le=1, description="shift drawn from [-t, t], in sides, along each axis"
    )
    scale: PositiveRange = Field(default=(0.9, 1.1), description="range of the zoom")
    shear: float = Field(
        default=10.0, ge=0, lt=90, description="shear drawn from [-s, s], degrees, along each axis"
    )


class ChannelDrop(Frozen):
    """Colour channels set to zero, so that chromatic aberration gives nothing away
    (arXiv:1505.05192)."""

    p: Probability = Field(default=0.5, description="probability that channels are dropped")
    num: int = Field(default=2, ge=1, le=2, description="channels dropped of the three")


class GaussianNoise(Frozen):
    """Independent noise on every value, clipped to [0, 1]."""

    p: Probability = Field(default=0.5, description="probability that noise is added")
    std: PositiveRange = Field(
        default=(0.02, 0.1), description="range of the standard deviation, in units of white"
    )


class Cutout(Frozen):
    """A box of one grey (arXiv:1708.04552, arXiv:1708.04896), inside the image."""

    p: Probability = Field(default=0.5, description="probability that a box is cut out")
    scale: FractionRange = Field(
        default=(0.02, 0.33), description="range of the box's share of the area"
    )
    ratio: PositiveRange = Field(
        default=(0.3, 3.3), description="range of the box's width / height, log-uniform"
    )
    value: float = Field(default=0.5, ge=0, le=1, description="grey of the box, in units of white")


class Sobel(Frozen):
    """Edges instead of colours: the length of each channel's gradient."""

    p: Probability = Field(default=0.5, description="probability that an image is filtered")
