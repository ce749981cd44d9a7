"""Which frames of a video a sample takes: positions drawn by the sample's key, a stretch of the
video to each clip."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa

from augment import column_draws
from pipelines import schema
from pipelines.media.contract import Clip
from pipelines.media.sounds.soundtrack import Soundtrack
from pipelines.motion.curve_files import Curves
from pipelines.motion.windows import ANY_WINDOW, Rule, placed

if TYPE_CHECKING:
    from models.artifact import Artifact


@dataclass(frozen=True)
class Sampling:
    """How clips are taken out of videos.

    Attributes:
        num_frames: T.
        frame_stride: Frames from one to the next, at the video's nominal rate; where `fps` is None.
        fps: Frames per second of a clip, whatever the video's rate.
        per_video: Clips of a video, each in its own stretch of it.
        as_frames: Take single frames, as images.
        seed: The run's; None: the middle of each stretch.
        per_sample: Clips of a sample, each at an instant of its own; of single frames, so many.
        max_gap_s: How far from the first in its stretch the others begin at most, seconds; None:
            anywhere in the video.
        rule: Which windows of a video are taken.
        curves: How the videos change, where the rule asks for it.
        soundtrack: What of its sound goes with each clip; None: nothing.
    """

    num_frames: int = 1
    frame_stride: int = 1
    fps: float | None = None
    per_video: int = 1
    as_frames: bool = True
    seed: int | None = None
    per_sample: int = 1
    max_gap_s: float | None = None
    rule: Rule = ANY_WINDOW
    curves: Curves | None = None
    soundtrack: Soundtrack | None = None

    @classmethod
    def seen_by(cls, artifact: "Artifact", per_video: int = 1) -> Self:
        """Return what an encoder sees of videos: the frame in the middle of each stretch, or the
        clip there."""
        if artifact.num_frames is None:  # as of sounds, of which there are no clips
            return cls(per_video=per_video)
        taken = artifact.of_images
        return cls(
            num_frames=taken.num_frames,
            frame_stride=taken.frame_stride,
            fps=taken.fps,
            per_video=per_video,
            as_frames=False,
        )

    def clips(self, rows: pa.Table) -> list[Clip | None]:
        """Draw the clip of every row; None for still images.

        Args:
            rows: Manifest rows with `epoch`.
        """
        is_video = np.array(rows[schema.MEDIA]) == schema.VIDEO
        if not is_video.any():
            return [None] * rows.num_rows
        index = rows[schema.CLIP].fill_null(0).to_numpy()
        draws = self._draw(rows)  # (B, per_sample)
        positions = (index + draws[:, 0]) / self.per_video
        num_frames = 1 if self.as_frames else self.num_frames
        clips = [
            Clip(
                num_frames,
                self.frame_stride,
                self.fps,
                float(position),
                tuple(others.tolist()),
                self.max_gap_s,
            )
            if video
            else None
            for position, others, video in zip(positions, draws[:, 1:], is_video, strict=True)
        ]
        if self.curves is not None:
            clips = self._placed(clips, rows, self.curves)
        if self.soundtrack is None:
            return clips
        tracks = self.soundtrack.tracks(rows, self.seed)
        return [
            replace(clip, track=track) if clip else None
            for clip, track in zip(clips, tracks, strict=True)
        ]

    def _placed(
        self, clips: list[Clip | None], rows: pa.Table, curves: Curves
    ) -> list[Clip | None]:
        """Place clips by what is known of their videos; what could not be looked at will not be
        decoded either."""
        videos = [index for index, clip in enumerate(clips) if clip is not None]
        for index, changes in zip(videos, curves.of(rows.take(videos)), strict=True):
            clip = clips[index]
            if clip is not None and changes is not None:
                clips[index] = placed(clip, changes, self.rule)
        return clips

    def _draw(self, rows: pa.Table) -> np.ndarray:
        if self.seed is None:
            return np.full((rows.num_rows, self.per_sample), 0.5)
        epoch, sample_id = (rows[name].to_numpy() for name in (schema.EPOCH, schema.SAMPLE_ID))
        draws = column_draws.uniform(
            self.per_sample, seed=self.seed, epoch=epoch, sample_id=sample_id, view=0, op="clip"
        )
        return draws.astype(np.float64)
