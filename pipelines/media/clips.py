"""Which frames of a video a sample takes: positions drawn by the sample's key, a stretch of the
video to each clip."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from augment import rng
from pipelines import schema
from pipelines.media.contract import Clip


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
    """

    num_frames: int = 1
    frame_stride: int = 1
    fps: float | None = None
    per_video: int = 1
    as_frames: bool = True
    seed: int | None = None

    def clips(self, rows: pa.Table) -> list[Clip | None]:
        """Draw the clip of every row; None for still images.

        Args:
            rows: Manifest rows with `epoch`.
        """
        is_video = np.array(rows[schema.MEDIA]) == schema.VIDEO
        if not is_video.any():
            return [None] * rows.num_rows
        index = rows[schema.CLIP].fill_null(0).to_numpy()
        positions = (index + self._draw(rows)) / self.per_video
        num_frames = 1 if self.as_frames else self.num_frames
        return [
            Clip(num_frames, self.frame_stride, self.fps, float(position)) if video else None
            for position, video in zip(positions, is_video, strict=True)
        ]

    def _draw(self, rows: pa.Table) -> np.ndarray:
        if self.seed is None:
            return np.full(rows.num_rows, 0.5)
        epoch, sample_id = (
            torch.tensor(rows[name].to_numpy()) for name in (schema.EPOCH, schema.SAMPLE_ID)
        )
        draws = rng.uniform(1, seed=self.seed, epoch=epoch, sample_id=sample_id, view=0, op="clip")
        return draws[:, 0].double().numpy()
