"""Lays embeddings out in two dimensions: PaCMAP (arXiv:2012.04456), by the authors' library.

A map is learnt from landmarks; every further sample goes where its nearest landmarks draw it, and
the landmarks stay. The result does not depend on how further samples are put into batches, nor on
the number of threads.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import faiss
import numba
import numpy as np

FEW = 16  # samples that have no neighbourhoods worth the name: along their main directions
BATCH_ROWS = 1 << 15  # placed together
SAMPLES_A_THREAD = 20_000
NEEDED = "pip install 'afield[atlas]'"


@dataclass(frozen=True, eq=False)
class Projection:
    """A map that was learnt.

    Attributes:
        positions: (L, 2) float32 of the landmarks.
        fitted: PaCMAP's own object; None where there are few landmarks.
        directions: Mean (D,) and main directions (D, 2), for few.
    """

    positions: np.ndarray
    fitted: Any
    directions: tuple[np.ndarray, np.ndarray]
    num_threads: int = 1

    def place(self, vectors: np.ndarray) -> np.ndarray:
        """Return where further samples lie, (n, 2) float32."""
        if self.fitted is None:
            mean, directions = self.directions
            return np.asarray((vectors - mean) @ directions, np.float32)
        found = [np.empty((0, 2), np.float32)]
        for start in range(0, len(vectors), BATCH_ROWS):
            some = vectors[start : start + BATCH_ROWS]
            with _threads(self.num_threads, len(some)):
                found.append(self.fitted.transform(some, save_pairs=False))
        return np.concatenate(found).astype(np.float32)


def check_library() -> None:
    """Refuse to begin without the library.

    Raises:
        ValueError: it is not installed; names the extra.
    """
    _library()


def _library() -> Any:
    try:
        import pacmap  # here, as only this job needs it, and it compiles as it is imported
    except ImportError:
        raise ValueError(f"an atlas needs PaCMAP: {NEEDED}") from None
    logging.getLogger("pacmap").setLevel(logging.ERROR)  # it warns of every seed
    return pacmap


def learn(landmarks: np.ndarray, seed: int, *, num_threads: int) -> Projection:
    """Learn a map.

    Args:
        landmarks: (L, D) float32 of length 1, L >= 1.
        seed: Of all that is drawn.
        num_threads: Compute threads of what is placed later; learning searches with one, for the
            same result every time.
    """
    directions = _directions(landmarks)
    if len(landmarks) < FEW or not directions[1].any():
        few = Projection(np.empty((0, 2), np.float32), None, directions)
        return Projection(few.place(landmarks), None, directions)
    fitted = _library().PaCMAP(n_components=2, random_state=seed, save_tree=True)
    with _threads(num_threads, len(landmarks)):
        positions = fitted.fit_transform(landmarks, save_pairs=False).astype(np.float32)
    faiss.omp_set_num_threads(num_threads)
    return Projection(positions, fitted, directions, num_threads)


@contextmanager
def _threads(most: int, num_samples: int) -> Iterator[None]:
    """Let PaCMAP's compiled loops run on some threads: on one for few samples.

    Threads meet some thousand times, and where other work keeps one of them from running all wait:
    240 samples then took minutes on two busy cores.
    """
    before = numba.get_num_threads()
    wanted = max(1, min(most, num_samples // SAMPLES_A_THREAD))
    numba.set_num_threads(min(wanted, before))
    try:
        yield
    finally:
        numba.set_num_threads(before)


def _directions(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of some vectors, and their two main directions (D, 2); 0 where they have
    fewer."""
    some = vectors[: 1 << 12].astype(np.float64)
    mean = some.mean(0)
    _, sizes, found = np.linalg.svd(some - mean, full_matrices=False)
    directions = np.zeros((vectors.shape[1], 2))
    for axis in range(min(2, len(found))):
        if sizes[axis] > 1e-9 * max(1.0, len(some)):
            largest = found[axis][np.abs(found[axis]).argmax()]
            # a direction's sign is arbitrary, and would differ from machine to machine
            directions[:, axis] = found[axis] * np.sign(largest)
    return mean.astype(np.float32), directions.astype(np.float32)


def along_a_curve(positions: np.ndarray) -> np.ndarray:
    """Return an order in which points near each other come one after the other: along a Z curve.

    Args:
        positions: (n, 2) float32, finite.

    Returns:
        (n,) int64, indices.
    """
    low = positions.min(0)
    span = np.maximum(positions.max(0) - low, np.finfo(np.float32).tiny)
    cells = ((positions - low) / span * 65535).astype(np.uint64)  # 16 bits an axis
    code = _spread(cells[:, 0]) | (_spread(cells[:, 1]) << np.uint64(1))
    return np.argsort(code, kind="stable")


def _spread(values: np.ndarray) -> np.ndarray:
    """Put a 0 between all bits of 16 bit values."""
    for shift, mask in ((8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555)):
        values = (values | (values << np.uint64(shift))) & np.uint64(mask)
    return values
