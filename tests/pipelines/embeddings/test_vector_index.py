"""The index of embeddings finds what exact search finds, or says how much of it."""

from collections.abc import Iterator

import numpy as np
import pytest

from pipelines.embeddings import vector_index
from pipelines.embeddings.vector_index import Batches, Design, build, nearest, unit

DIM = 16


def clustered(num_rows: int) -> np.ndarray:
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((20, DIM), dtype=np.float32)
    noise = generator.standard_normal((num_rows, DIM), dtype=np.float32)
    return centres[generator.integers(0, 20, num_rows)] + 0.4 * noise


def streamed(vectors: np.ndarray, reads: list[int]) -> Batches:
    """Give vectors in batches of 300, and count how often they are read."""

    def batches() -> Iterator[tuple[int, np.ndarray]]:
        reads.append(len(vectors))
        for start in range(0, len(vectors), 300):
            yield start, vectors[start : start + 300]

    return batches


def exact(vectors: np.ndarray, row: int, k: int) -> np.ndarray:
    scaled = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    order = np.argsort(-scaled @ scaled[row], kind="stable")
    return order[order != row][:k]


def test_a_flat_index_finds_what_numpy_finds_and_leaves_out_what_has_no_direction() -> None:
    vectors = clustered(1000)
    vectors[17] = 0
    vectors[400] = np.nan
    vectors[401] = 1e30  # whose square is infinite in float32
    reads: list[int] = []
    index, built = build(streamed(vectors, reads), Design(1000, DIM, 0), num_threads=1)
    assert (built.kind, built.rows, built.unusable, built.recall, len(reads)) == (
        "flat",
        998,
        2,
        1.0,
        1,
    )
    query, _ = unit(vectors[3:4])
    found = nearest(index, query[0], 12, {3})
    known = np.delete(vectors, [17, 400], axis=0).astype(np.float64)
    wanted = exact(known, 3, 12)
    rows = np.delete(np.arange(1000), [17, 400])[wanted]
    assert [row for row, _ in found] == rows.tolist()
    assert nearest(index, query[0], 1) == [(3, pytest.approx(1))]


def test_an_inverted_file_tells_the_recall_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_index, "FLAT_ROWS", 1000)
    vectors = clustered(8000)
    reads: list[int] = []
    design = Design(8000, DIM, 0)
    index, built = build(streamed(vectors, reads), design, num_threads=1)
    assert len(reads) == 2
    assert built.train_rows == design.train_rows == 40 * design.num_cells
    assert built.queries == vector_index.NUM_QUERIES

    shares = []
    for row in range(0, 8000, 80):
        query, _ = unit(vectors[row : row + 1])
        found = [each for each, _ in nearest(index, query[0], 10, {row})]
        shares.append(np.isin(exact(vectors, row, 10), found).mean())
    assert built.recall > 0.9
    assert abs(np.mean(shares) - built.recall) < 0.03

    many = nearest(index, unit(vectors[:1])[0][0], 3000)  # more than the cells visited hold
    assert len({row for row, _ in many}) == 3000
    _, built_again = build(streamed(vectors, reads), design, num_threads=1)
    assert built_again == built


def test_an_export_without_any_direction_is_refused() -> None:
    nothing = np.zeros((5, DIM), np.float32)
    with pytest.raises(ValueError, match="none of the 5 embeddings is finite and not zero"):
        build(streamed(nothing, []), Design(5, DIM, 0), num_threads=1)
