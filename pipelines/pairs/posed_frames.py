"""Frames of a camera whose poses are known, and for each another one from near by: how the camera
moved between them is told by the poses."""

import io
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
import pyarrow as pa

from augment.column_draws import uniform
from pipelines import schema
from pipelines.pairs.files_beside import FilesBeside
from pipelines.storage import uris

MOTIONS = ("x", "y", "z", "pitch", "yaw", "roll")
_FILES = ("file", "uri", "path")
_SEQUENCE = "sequence"
_ROTATION = [f"r{row}{column}" for row in range(3) for column in range(3)]
_PLACE = ["t0", "t1", "t2"]
_NOT_POSED = ""


@dataclass(frozen=True)
class PosedFrames(FilesBeside):
    """Second images that are frames from just before or after, as a table of poses tells.

    The table is a CSV file with a row a frame, in their order: `file`, beside the table; `r00` to
    `r22` and `t0` to `t2`, the camera's rotation and place in the world, m; and, where there are
    several drives, `sequence`; else each folder is one.

    Attributes:
        rule: URI of the table.
        max_gap: Frames from a sample to its second image, at most, before or after it.
        seed: The run's.
    """

    max_gap: int = 1
    seed: int = 0

    @property
    def named(self) -> tuple[str, ...]:
        """Return the columns that `columns` gives."""
        return (schema.MOTION,)

    def columns(self, rows: pa.Table) -> dict[str, np.ndarray]:
        """Return the camera's motion from each row's image to its second one, (B, 6) float32, in
        the order of `MOTIONS`.

        Of each component its rank among all pairs so near: 0 for the least, 1 for the most.
        """
        poses = _read(self.rule, self.max_gap)
        motion = np.zeros((rows.num_rows, len(MOTIONS)), np.float32)
        for index, (frame, other) in enumerate(self._drawn(poses, rows)):
            if frame is not None and other is not None:
                motion[index] = poses.ranks(poses.motion(np.array([frame]), np.array([other])))[0]
        return {schema.MOTION: motion}

    def sought(self, rows: pa.Table) -> list[str]:
        """Name the second image of each row; nothing for one without a pose or without others."""
        poses = _read(self.rule, self.max_gap)
        return [
            _NOT_POSED if other is None else poses.files[other]
            for _, other in self._drawn(poses, rows)
        ]

    def _drawn(self, poses: "_Poses", rows: pa.Table) -> list[tuple[int | None, int | None]]:
        """Draw the frame that belongs to each row, by its key."""
        epoch, sample_id = (rows[name].to_numpy() for name in (schema.EPOCH, schema.SAMPLE_ID))
        draws = uniform(
            1, seed=self.seed, epoch=epoch, sample_id=sample_id, view=0, op="second frame"
        )[:, 0].tolist()
        drawn = list[tuple[int | None, int | None]]()
        for uri, draw in zip(rows[schema.URI].to_pylist(), draws, strict=True):
            frame = poses.index.get(uri)
            near = poses.near[frame] if frame is not None else ()
            drawn.append((frame, near[int(draw * len(near))] if near else None))
        return drawn


@dataclass(frozen=True, eq=False)
class _Poses:
    """A table of poses.

    Attributes:
        files: URIs of the frames.
        index: Their numbers.
        rotations: Camera to world, (N, 3, 3).
        places: In the world, m, (N, 3).
        near: Of each frame the others of its sequence within the gap.
        ordered: Each component of the motion of all such pairs, ascending, (6, pairs).
    """

    files: list[str]
    index: dict[str, int]
    rotations: np.ndarray
    places: np.ndarray
    near: list[list[int]]
    ordered: np.ndarray

    def motion(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return where second cameras stand before the first ones, and how they are turned."""
        return _motion(self.rotations, self.places, first, second)

    def ranks(self, motion: np.ndarray) -> np.ndarray:
        """Return the rank of motions (n, 6) among all pairs; of equal ones the middle."""
        count = self.ordered.shape[1]
        ranks = [
            (np.searchsorted(ordered, value, "left") + np.searchsorted(ordered, value, "right"))
            / (2 * count)
            for ordered, value in zip(self.ordered, motion.T, strict=True)
        ]
        return np.stack(ranks, axis=1)


def _motion(
    rotations: np.ndarray, places: np.ndarray, first: np.ndarray, second: np.ndarray
) -> np.ndarray:
    """Return the motions from first to second frames, (n, 6): right, down and ahead, m, and about
    the same axes, radians."""
    from scipy.spatial.transform import Rotation  # here, as it is slow to import

    back = rotations[first].transpose(0, 2, 1)
    moved = np.einsum("nij,nj->ni", back, places[second] - places[first])
    turned = Rotation.from_matrix(back @ rotations[second]).as_rotvec()
    return np.concatenate([moved, turned], axis=1)


def check_poses(uri: str, max_gap: int) -> None:
    """Refuse a table that tells no motion.

    Raises:
        ValueError: it lacks a column, or has no two frames of one sequence.
        OSError: it cannot be read.
    """
    _read(uri, max_gap)


@lru_cache(maxsize=2)
def _read(uri: str, max_gap: int) -> _Poses:
    table = pd.read_csv(io.BytesIO(uris.read_bytes(uri)))
    named = next((name for name in _FILES if name in table), None)
    missing = [name for name in (*_ROTATION, *_PLACE) if name not in table]
    if named is None or missing:
        raise ValueError(
            f"{uri} has no column {'file' if named is None else missing[0]}: poses are a CSV file"
            " of file, r00 to r22 and t0 to t2, a row a frame"
        )
    folder = uri.rpartition("/")[0]
    names = [str(name) for name in table[named]]
    files = [
        name if "://" in name or name.startswith("/") else uris.join(folder, name) for name in names
    ]
    rotations = table[_ROTATION].to_numpy(np.float64).reshape(-1, 3, 3)
    places = table[_PLACE].to_numpy(np.float64)
    sequences = defaultdict[str, list[int]](list)
    for frame, file in enumerate(files):
        told = str(table[_SEQUENCE][frame]) if _SEQUENCE in table else file.rpartition("/")[0]
        sequences[told].append(frame)
    near: list[list[int]] = [[] for _ in files]
    for frames in sequences.values():
        for at, frame in enumerate(frames):
            near[frame] = frames[max(0, at - max_gap) : at] + frames[at + 1 : at + 1 + max_gap]
    first = np.repeat(np.arange(len(files)), [len(others) for others in near])
    second = np.array([other for others in near for other in others], np.int64)
    if not len(second):
        raise ValueError(
            f"{uri} has no two frames of one sequence: poses tell motion from frame to frame"
        )
    ordered = np.sort(_motion(rotations, places, first, second), axis=0).T
    index = {file: frame for frame, file in enumerate(files)}
    return _Poses(files, index, rotations, places, near, ordered)
