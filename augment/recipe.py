"""What a view is: typed recipes of crops and colour changes."""

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from augment.frozen import Frozen
from augment.ops import (
    Affine,
    ChannelDrop,
    ColorJitter,
    Cutout,
    FractionRange,
    GaussianBlur,
    GaussianNoise,
    Greyscale,
    Positive,
    PositiveRange,
    Probability,
    QuarterTurns,
    Rotate,
    Sobel,
    Solarize,
)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
Placement = Literal["auto", "worker", "actor", "decode"]
PairKind = Literal["colours", "depth", "hha"]
"""What is made of a sample's second image: RGB; depths as they are in the file; or depth as
disparity, height above ground and angle with gravity, see `augment.scenes.hha`."""


MOST_BYTES = 2**31 - 1  # of a row: Arrow counts what a fixed-size list holds in 31 bits


class ViewGroup(Frozen):
    """Views drawn alike, of whatever medium."""

    count: int = Field(default=1, ge=1, description="views of this kind per sample")


class AnyViews(Frozen):
    """All views of one sample of any medium: group after group in the order given, which also
    numbers the views.

    Attributes:
        default_size: What `size` is where a recipe does not say.
        smallest: The least that `size` can be.
        unit: What `size` counts.
    """

    default_size: ClassVar[int]
    smallest: ClassVar[int] = 8
    unit: ClassVar[str] = "px"

    size: int
    groups: Mapping[str, ViewGroup]

    @property
    def num_views(self) -> int:
        """Return the number of views per sample, of all groups together."""
        return sum(group.count for group in self.groups.values())

    def group_size(self, name: str) -> int:
        """Return the size of a group's views."""
        return self.size

    def first_view(self, name: str) -> int:
        """Index of the group's first view among all views of a sample; keys its random draws."""
        names = list(self.groups)
        return sum(self.groups[earlier].count for earlier in names[: names.index(name)])


class CropGroup(ViewGroup):
    """Views drawn alike: a random resized crop, a flip, then the changes present, in the order of
    the fields."""

    count: int = Field(default=1, ge=1, description="views of this kind per image")
    size: int | None = Field(
        default=None, ge=8, description="side of the views, px; null: the side of all views"
    )
    scale: FractionRange = Field(
        default=(0.08, 1.0), description="range of the crop's share of the image's area"
    )
    ratio: PositiveRange = Field(
        default=(3 / 4, 4 / 3), description="range of the crop's width / height, log-uniform"
    )
    flip: Probability = Field(
        default=0.5, description="probability of a mirror image, left to right"
    )
    quarter_turns: QuarterTurns | None = Field(
        default=None, description="turns by 90 degrees; null: none"
    )
    rotate: Rotate | None = Field(default=None, description="rotation by any angle; null: none")
    affine: Affine | None = Field(default=None, description="affine map; null: none")
    color_jitter: ColorJitter | None = Field(
        default=None, description="change of colour; null: none"
    )
    greyscale: Greyscale | None = Field(default=None, description="removal of colour; null: none")
    blur: GaussianBlur | None = Field(default=None, description="Gaussian blur; null: none")
    solarize: Solarize | None = Field(
        default=None, description="inversion of bright values; null: none"
    )
    channel_drop: ChannelDrop | None = Field(
        default=None, description="colour channels set to zero; null: none"
    )
    noise: GaussianNoise | None = Field(default=None, description="Gaussian noise; null: none")
    cutout: Cutout | None = Field(default=None, description="a grey box; null: none")
    sobel: Sobel | None = Field(default=None, description="edges instead of colours; null: none")

    def changes(self) -> list[str]:
        """Return the fields of the changes present, in the order of their application."""
        return [name for name in type(self).model_fields if isinstance(getattr(self, name), Frozen)]

    def turning(self) -> str | None:
        """Return the first change that moves pixels, for what must lie where they do; None where
        none does."""
        turns = ("quarter_turns", "rotate", "affine")
        return next((name for name in turns if getattr(self, name) is not None), None)


class Views(AnyViews):
    """All views of one image, or of each frame of a clip."""

    default_size: ClassVar[int] = 224

    size: int = Field(
        default=224, ge=8, description="side of the views, px, where a group does not set its own"
    )
    placement: Placement = Field(
        default="auto",
        description=(
            "where colours change: the training worker's device, the decode task, or a pool of"
            " actors; auto: actor with spare GPUs, else worker, decode without GPUs"
        ),
    )
    compile: bool = Field(
        default=False,
        description=(
            "change colours on GPUs with torch.compile, four times as fast there; needs a C"
            " compiler on their nodes and half a minute at the start"
        ),
    )
    mean: tuple[float, float, float] = Field(
        default=IMAGENET_MEAN, description="subtracted from RGB in [0, 1]"
    )
    std: tuple[Positive, Positive, Positive] = Field(
        default=IMAGENET_STD, description="divides RGB after the mean is taken off"
    )
    groups: dict[str, CropGroup] = Field(
        default_factory=lambda: {"global_crops": CropGroup()},
        min_length=1,
        description="kinds of views by name",
    )

    @model_validator(mode="after")
    def _held_by_a_row(self) -> Self:
        self.check_bytes(num_frames=1)
        return self

    def check_bytes(self, num_frames: int) -> None:
        """Refuse views that no row of a block can hold.

        Args:
            num_frames: Of each view: 1 of an image.

        Raises:
            ValueError: a sample's views are larger.
        """
        sides = {name: self.group_size(name) for name in self.groups}
        num_bytes = sum(
            3 * num_frames * group.count * sides[name] ** 2 for name, group in self.groups.items()
        )
        if num_bytes > MOST_BYTES:
            frames = f", {num_frames} frames each," if num_frames > 1 else ""
            raise ValueError(
                f"{self.num_views} views of {max(sides.values())} px{frames} are"
                f" {num_bytes / 2**30:.3g} GiB a sample, which can have 2: make fewer or smaller"
                " ones"
            )

    def group_size(self, name: str) -> int:
        """Return the side of a group's views, px."""
        return self.groups[name].size or self.size
