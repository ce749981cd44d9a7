"""How an artifact wants its images."""

from typing import Annotated, Literal

from pydantic import Field

from augment.frozen import Frozen

_Positive = Annotated[float, Field(gt=0)]


class Preprocess(Frozen):
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
