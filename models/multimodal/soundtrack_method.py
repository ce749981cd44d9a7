"""What methods of videos and their sound share."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from augment.sound.sound_views import scaled
from models.method import Batch, Method, MethodConfig

SOUND = "sound"


class SoundtrackConfig(MethodConfig):
    """Settings that methods of videos and their sound share."""

    sound_s: float = Field(
        default=3.75,
        gt=0.02,
        le=60,
        description="sound around the middle of the frames, seconds; what a track lacks is silence",
    )
    sound_rate: int = Field(
        default=16_000,
        ge=1_000,
        le=192_000,
        description="samples a second, to which every sound is resampled, Hz",
    )

    @property
    def sound_samples(self) -> int:
        """Return the samples of a stretch of sound."""
        return round(self.sound_s * self.sound_rate)

    @property
    def elsewhere_s(self) -> tuple[float, float] | None:
        """Return how far from the clip's own a second stretch is, at least and at most, seconds;
        None: there is none."""
        return None


class SoundtrackMethod(Method):
    """A method whose sample is a video with its sound."""

    columns: ClassVar[Mapping[str, str]] = {SOUND: "of each video"}

    @staticmethod
    def heard(batch: Batch) -> Tensor:
        """Return the sound that goes with each sample, (B, V, L) float32, full scale is 1."""
        return scaled(batch["targets"][SOUND], 1.0)
