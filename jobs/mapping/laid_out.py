"""The map itself: where each sample lies and in which cluster it is, kept until the atlas is
whole."""

import io
import sys
from dataclasses import dataclass

import numpy as np

from jobs.cluster.cores import own_cores
from jobs.cluster.stream_progress import StreamProgress
from pipelines.atlas import projection
from pipelines.atlas.chosen import Chosen
from pipelines.curation.centres import learn, num_samples
from pipelines.storage import uris

PLACES = "places.npz"


@dataclass(frozen=True, eq=False)
class LaidOut:
    """Where samples lie; those near each other follow each other.

    Attributes:
        positions: (n, 2) float32, in the map's order.
        cluster: (n,) int64, in the map's order; 0 is the largest.
        order: (n,) the sample, as chosen, that comes at each place.
    """

    positions: np.ndarray
    cluster: np.ndarray
    order: np.ndarray


def lay_out(chosen: Chosen, folder: str, seed: int, clusters: int) -> LaidOut:
    """Lay the samples out, or read what a run that was stopped has laid out.

    Args:
        chosen: The samples.
        folder: Of the atlas's data.
        seed: Of the map and its clusters.
        clusters: How many.
    """
    place = uris.join(folder, PLACES)
    if uris.exists(place):
        with np.load(io.BytesIO(uris.read_bytes(place))) as kept:
            if np.array_equal(kept["ids"], chosen.ids):
                print("the map is there already", file=sys.stderr)
                return LaidOut(kept["positions"], kept["cluster"], kept["order"])
    positions, cluster = _placed(chosen, seed, clusters)
    order = projection.along_a_curve(positions)
    laid = LaidOut(positions[order], _by_size(cluster)[order], order)
    uris.remove(folder)  # pictures of another map
    buffer = io.BytesIO()
    np.savez(buffer, ids=chosen.ids, **vars(laid))
    uris.write_bytes(place, buffer.getvalue())
    return laid


def _placed(chosen: Chosen, seed: int, clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where each sample lies (n, 2), and its cluster (n,)."""
    learnt = projection.learn(chosen.vectors, seed, num_threads=own_cores())
    most = num_samples(len(chosen.vectors), chosen.vectors.shape[1], clusters)
    # evenly spaced over the export, whatever order that has
    some = np.linspace(0, len(chosen.vectors) - 1, most).astype(np.int64)
    centres = learn(chosen.vectors[some], clusters, seed)
    positions = np.empty((len(chosen.rows), 2), np.float32)
    cluster = np.empty(len(chosen.rows), np.int64)
    is_landmark = np.zeros(len(chosen.rows), bool)
    is_landmark[chosen.landmarks] = True
    progress = StreamProgress()
    for low, vectors in chosen.batches():
        progress.look("placing samples", len(chosen.rows), low)
        rows = slice(low, low + len(vectors))
        cluster[rows] = centres.nearest(vectors)[0][:, 0]
        others = ~is_landmark[rows]
        if others.any():
            positions[rows][others] = learnt.place(vectors[others])
    positions[chosen.landmarks] = learnt.positions
    return positions, cluster


def _by_size(cluster: np.ndarray) -> np.ndarray:
    """Number clusters anew, the largest first."""
    counts = np.bincount(cluster)
    rank = np.empty(len(counts), np.int64)
    rank[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    renamed: np.ndarray = rank[cluster]
    return renamed
