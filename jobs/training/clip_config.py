"""The section of a run that says which frames of videos make its samples."""

from typing import Any

from pydantic import Field

from augment.frozen import Frozen, other_of
from jobs.setup.sections import PER_VIDEO
from pipelines.media.clips import Sampling


class ClipConfig(Frozen):
    """What is taken of videos."""

    num_frames: int = Field(
        16, ge=1, description="frames of a clip; a shorter video's last frame is repeated"
    )
    frame_stride: int = Field(
        4, ge=1, description="frames of the video from one frame of a clip to the next"
    )
    fps: float | None = Field(
        None, gt=0, description="frames per second of a clip; null: by frame_stride"
    )
    per_video: int | None = PER_VIDEO
    per_sample: int = Field(
        1,
        ge=1,
        description=(
            "clips of a sample, at instants of their own: its views are cut from them in turn"
            " (arXiv:2104.14558)"
        ),
    )
    max_gap_s: float | None = Field(
        None,
        gt=0,
        description=(
            "per_sample: the other clips begin at most so much before or after the first, seconds;"
            " null: anywhere in the video"
        ),
    )
    as_frames: bool = Field(
        False, description="single frames instead of clips, for methods that take images"
    )

    @classmethod
    def voided_by(cls, key: str, values: dict[str, Any]) -> tuple[str, ...]:
        """Return what a way to space a clip's frames leaves of the other way."""
        return other_of(("fps", "frame_stride"), key, values)

    def idle(self) -> dict[str, str]:
        """Return what single frames, or one clip a sample, leave without effect."""
        gap = {"max_gap_s": "per_sample"} if self.per_sample == 1 else {}
        clip = ("num_frames", "frame_stride", "fps", "per_sample", "max_gap_s")
        return gap | (dict.fromkeys(clip, "as_frames") if self.as_frames else {})

    def taking(self) -> dict[str, Any]:
        """Return which frames make a clip: fields of `models.preprocess.Preprocess`."""
        spacing = {"frame_stride": self.frame_stride} if self.fps is None else {"fps": self.fps}
        return {"num_frames": self.num_frames, **spacing}

    def sampling(self, per_video: int, seed: int) -> Sampling:
        """Return how samples are drawn from videos that are listed so often."""
        return Sampling(
            num_frames=self.num_frames,
            frame_stride=self.frame_stride,
            fps=self.fps,
            per_video=per_video,
            as_frames=self.as_frames,
            seed=seed,
            per_sample=1 if self.as_frames else self.per_sample,  # one frame is looked at
            max_gap_s=self.max_gap_s,
        )
