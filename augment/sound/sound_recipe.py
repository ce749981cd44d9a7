"""What a view of a sound is: a window of it, and how the window is changed."""

from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, Field, model_validator

from augment.frozen import Frozen
from augment.ops import Fraction, Positive, Probability
from augment.recipe import MOST_BYTES, AnyViews, ViewGroup

WINDOW_BYTES = 2  # of a sample of the stream: int16


def _ascending(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"the lower bound comes first, got {bounds}")
    return bounds


Decibels = Annotated[tuple[float, float], AfterValidator(_ascending)]


class Gain(Frozen):
    """Louder or softer as a whole."""

    p: Probability = Field(default=1.0, description="probability that a window is changed")
    decibels: Decibels = Field(default=(-6.0, 6.0), description="range of the change, dB")


class WhiteNoise(Frozen):
    """Gaussian noise added."""

    p: Probability = Field(default=0.5, description="probability that a window is changed")
    snr: Decibels = Field(
        default=(10.0, 40.0), description="range of the window's power above the noise's, dB"
    )


class TimeMasks(Frozen):
    """Stretches of silence in place of the sound (SpecAugment's masks of time,
    arXiv:1904.08779)."""

    p: Probability = Field(default=1.0, description="probability that a window is changed")
    count: int = Field(default=2, ge=1, le=64, description="stretches of a window")
    longest: Fraction = Field(
        default=0.1, description="the longest, as a share of the window; lengths are uniform"
    )


class SoundGroup(ViewGroup):
    """Views drawn alike: windows, then the changes present, in the order of the fields."""

    count: int = Field(default=1, ge=1, description="windows of this kind per sample")
    gain: Gain | None = Field(default=None, description="change of loudness; null: none")
    noise: WhiteNoise | None = Field(default=None, description="Gaussian noise; null: none")
    time_masks: TimeMasks | None = Field(
        default=None, description="stretches of silence; null: none"
    )


class SoundViews(AnyViews):
    """All views of one sound."""

    default_size: ClassVar[int] = 16_000
    smallest: ClassVar[int] = 400
    unit: ClassVar[str] = "samples"

    size: int = Field(
        default=16_000,
        ge=400,
        description="length of the windows, samples at views.rate; a shorter sound is padded",
    )
    rate: int = Field(
        default=16_000,
        ge=1_000,
        le=192_000,
        description="samples a second, to which every sound is resampled, Hz",
    )
    std: Positive = Field(
        default=0.1, description="divides samples in [-1, 1], so that speech is of size 1 or so"
    )
    groups: dict[str, SoundGroup] = Field(
        default_factory=lambda: {"windows": SoundGroup()},
        min_length=1,
        description="kinds of views by name",
    )

    @model_validator(mode="after")
    def _held_by_a_row(self) -> Self:
        num_bytes = WINDOW_BYTES * self.num_views * self.size
        if num_bytes > MOST_BYTES:
            raise ValueError(
                f"{self.num_views} windows of {self.size} samples are {num_bytes / 2**30:.3g} GiB"
                " a sample, which can have 2: make fewer or shorter ones"
            )
        return self
