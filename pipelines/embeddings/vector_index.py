"""Nearest neighbours by cosine among stored embeddings: an index built from a stream of batches,
and its recall against exact search.

Up to `FLAT_ROWS` vectors are kept as they are, and search is exact. Of more, an inverted file holds
each at 8 bits a feature: a query is compared with the vectors of the cells that lie nearest to it.

Why 8 bits and no product quantisation: of 40,000 clustered vectors of 64 features, 16 bytes each
found 46 % of the ten nearest however many cells were visited, and took 36 s of CPU to learn. With 8
bits, 100,000 of 128 features took 0.6 s to build and found 97 %, as did a million.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import faiss
import numpy as np

FLAT_ROWS = 100_000
MEASURED_K = 10
NUM_QUERIES = 256  # recall@10 is then known to about +- 0.01
ROWS_A_CELL = 40  # of the training sample; faiss warns below 39
TRAIN_BYTES = 1 << 29
_PROBES = (8, 16, 32, 64, 128, 256, 512)
_ENOUGH = 0.005  # of recall, for which no further cells are visited

# Rows of the stored table, counted from 0, in order, and their embeddings (B, D).
Batches = Callable[[], Iterator[tuple[int, np.ndarray]]]


@dataclass(frozen=True)
class Design:
    """What an index of so many vectors will be.

    Attributes:
        num_rows: N.
        dim: D.
        seed: Of the training sample, the cells and the queries that measure recall.
    """

    num_rows: int
    dim: int
    seed: int

    @property
    def kind(self) -> Literal["flat", "ivf"]:
        """Return which index it is."""
        return "flat" if self.num_rows < FLAT_ROWS else "ivf"

    @property
    def num_cells(self) -> int:
        """Return the cells of an inverted file: about twice the square root of N, a power of 2,
        and no more than the training sample can place."""
        wanted = 1 << round(np.log2(2 * self.num_rows**0.5))
        most = max(1, TRAIN_BYTES // (4 * self.dim * ROWS_A_CELL))
        return int(min(wanted, 1 << int(np.log2(most))))

    @property
    def train_rows(self) -> int:
        """Return the rows that the cells are learnt from."""
        return 0 if self.kind == "flat" else min(self.num_rows, self.num_cells * ROWS_A_CELL)

    def factory(self) -> str:
        """Return faiss's own word for it."""
        return "Flat" if self.kind == "flat" else f"IVF{self.num_cells},SQ8"

    def index_bytes(self) -> int:
        """Return about what the index takes, in memory and in storage."""
        row = 4 * self.dim if self.kind == "flat" else self.dim
        return self.num_rows * (row + 8) + 4 * self.dim * (self.num_cells + NUM_QUERIES)

    def memory_bytes(self) -> int:
        """Return about what building it takes at most, beside a batch."""
        # Cells grow by doubling, and k-means copies the sample it is given.
        return 2 * max(self.index_bytes(), 4 * self.dim * self.train_rows)


@dataclass(frozen=True)
class Built:
    """What building an index found.

    Attributes:
        kind: `flat` or `ivf`.
        factory: faiss's word for it.
        rows: Vectors in it.
        unusable: Rows left out: not finite, or zero, so that no cosine is defined.
        train_rows, seed: What the cells were learnt from.
        probes: Cells that a query visits; 0 where search is exact.
        recall: Of the `k` nearest by exact search, the share that is found; 1 where exact.
        k: 10.
        queries: Rows of the corpus that recall was measured with.
    """

    kind: str
    factory: str
    rows: int
    unusable: int
    train_rows: int
    seed: int
    probes: int = 0
    recall: float = 1.0
    k: int = MEASURED_K
    queries: int = 0


def unit(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale vectors to length 1.

    Args:
        vectors: (B, D) of any float type.

    Returns:
        Those that can be scaled, (b, D) float32 contiguous, and which they are, (B,) bool.
    """
    wide = np.ascontiguousarray(vectors, dtype=np.float32)
    # as float64: squares of large features overflow
    length = np.sqrt(np.square(wide, dtype=np.float64).sum(1))
    usable = np.isfinite(length) & (length > 0)
    scaled = wide[usable] / length[usable, None]
    return np.ascontiguousarray(scaled, dtype=np.float32), usable


def build(batches: Batches, design: Design, *, num_threads: int) -> tuple[faiss.Index, Built]:
    """Build an index, a batch in memory at a time, and measure its recall.

    The rows are read once, or twice where cells must be learnt first.

    Args:
        batches: Reads all rows anew at every call.
        design: What to build.
        num_threads: Compute threads.

    Raises:
        ValueError: no row can be used.
    """
    faiss.omp_set_num_threads(num_threads)
    return _flat(batches, design) if design.kind == "flat" else _inverted(batches, design)


def _flat(batches: Batches, design: Design) -> tuple[faiss.Index, Built]:
    index = faiss.IndexIDMap(faiss.IndexFlatIP(design.dim))
    for start, vectors in batches():
        rows, scaled = _numbered(start, vectors)
        index.add_with_ids(scaled, rows)
    return index, _built(design, index)


def _inverted(batches: Batches, design: Design) -> tuple[faiss.Index, Built]:
    sample, queries, query_rows = _samples(batches, design)
    # faiss's stubs know of the base class only
    index: Any = faiss.index_factory(design.dim, design.factory(), faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = design.seed
    index.train(sample)
    train_rows = len(sample)
    del sample
    exact = faiss.ResultHeap(len(queries), MEASURED_K + 1, keep_max=True)
    for start, vectors in batches():
        rows, scaled = _numbered(start, vectors)
        index.add_with_ids(scaled, rows)
        if len(rows):
            k = min(MEASURED_K + 1, len(rows))
            near, places = faiss.knn(queries, scaled, k, faiss.METRIC_INNER_PRODUCT)
            exact.add_result(near, rows[places])
    exact.finalize()
    probes, recall = _measured(index, queries, query_rows, exact.I)
    index.nprobe = probes
    built = replace(_built(design, index), train_rows=train_rows, queries=len(queries))
    return index, replace(built, probes=probes, recall=recall)


def _built(design: Design, index: faiss.Index) -> Built:
    if not index.ntotal:
        raise ValueError(f"none of the {design.num_rows} embeddings is finite and not zero")
    unusable = design.num_rows - index.ntotal
    return Built(design.kind, design.factory(), index.ntotal, unusable, 0, design.seed)


def _numbered(start: int, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of a batch that can be used, (b,) int64, and them at length 1, (b, D)."""
    scaled, usable = unit(vectors)
    return start + np.flatnonzero(usable), scaled


def _samples(batches: Batches, design: Design) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read the rows to learn from, and those to measure with and their numbers, at length 1."""
    generator = np.random.default_rng(design.seed)
    wanted = generator.choice(design.num_rows, design.train_rows, replace=False, shuffle=False)
    measured = generator.choice(design.num_rows, NUM_QUERIES, replace=False, shuffle=False)
    picked: dict[str, list[np.ndarray]] = {"sample": [], "queries": [], "rows": []}
    chosen = {"sample": np.sort(wanted), "queries": np.sort(measured)}
    for start, vectors in batches():
        for name, rows in chosen.items():
            low, high = np.searchsorted(rows, (start, start + len(vectors)))
            scaled, usable = unit(vectors[rows[low:high] - start])
            picked[name].append(scaled)
            if name == "queries":
                picked["rows"].append(rows[low:high][usable])
    sample, queries, query_rows = map(np.concatenate, picked.values())
    return sample, queries, query_rows


def _measured(
    index: Any, queries: np.ndarray, query_rows: np.ndarray, exact: np.ndarray
) -> tuple[int, float]:
    """Choose how many cells a query visits: no more than recall gains by.

    Returns:
        The cells, and recall@10 with them, the query's own row left out.
    """
    recalls = {}
    for probes in _PROBES:
        if probes > index.nlist:
            break
        index.nprobe = probes
        _, found = index.search(queries, MEASURED_K + 1)
        recalls[probes] = _recall(found, exact, query_rows)
    best = max(recalls.values())
    return next((probes, recall) for probes, recall in recalls.items() if recall >= best - _ENOUGH)


def _recall(found: np.ndarray, exact: np.ndarray, query_rows: np.ndarray) -> float:
    shares = []
    for ours, theirs, own in zip(found, exact, query_rows, strict=True):
        wanted = theirs[theirs != own][:MEASURED_K]
        shares.append(np.isin(wanted, ours[ours != own][:MEASURED_K]).mean())
    return float(np.mean(shares))


def nearest(
    index: faiss.Index, query: np.ndarray, k: int, without: Collection[int] = ()
) -> list[tuple[int, float]]:
    """Return the k nearest rows of a query with their cosines, the nearest first.

    Args:
        index: From `build`.
        query: (D,) of length 1.
        k: At least 1; fewer rows come back where the index has fewer.
        without: Rows that are passed over.
    """
    wanted = min(k + len(without), index.ntotal)
    visited: Any = faiss.try_extract_index_ivf(index)
    before = visited.nprobe if visited else 0
    while True:
        cosine, rows = index.search(query[None], wanted)
        if rows[0, -1] >= 0 or visited is None or visited.nprobe >= visited.nlist:
            break
        visited.nprobe = min(2 * visited.nprobe, visited.nlist)  # too few lie in those cells
    if visited:
        visited.nprobe = before
    pairs = zip(rows[0].tolist(), cosine[0].tolist(), strict=True)
    return [(row, value) for row, value in pairs if row >= 0 and row not in without][:k]
