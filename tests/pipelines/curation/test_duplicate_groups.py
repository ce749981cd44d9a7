import numpy as np
import pyarrow as pa

from pipelines import schema
from pipelines.curation import near_pairs
from pipelines.curation.duplicate_groups import decide, ranks


def unlike(pairs: np.ndarray) -> np.ndarray:
    return np.zeros(len(pairs), bool)


def test_the_largest_stays_then_the_larger_file_then_the_first() -> None:
    pixels = np.array([100, 400, 400, 400])
    nbytes = np.array([90, 10, 20, 20])
    rank = ranks(pixels, nbytes, -np.arange(4))
    assert rank.argsort().tolist() == [2, 3, 1, 0]
    found = decide(np.array([[0, 2], [1, 2], [2, 3]]), rank, unlike)
    assert found.gone.tolist() == [0, 1, 3] and set(found.kept.tolist()) == {2}


def test_a_chain_of_neighbours_does_not_go_as_a_whole() -> None:
    chain = np.stack([np.arange(9), np.arange(1, 10)], axis=1)
    found = decide(chain, np.arange(10), unlike)
    stays = set(range(10)) - set(found.gone.tolist())
    assert stays == {0, 2, 4, 6, 8}
    assert (np.abs(found.gone - found.kept) == 1).all()
    whole = decide(chain, np.arange(10), lambda pairs: np.ones(len(pairs), bool))
    assert whole.gone.tolist() == list(range(1, 10)) and not whole.kept.any()


def test_near_vectors_are_paired_once_whatever_their_copies_and_clusters() -> None:
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((400, 16)).astype(np.float32)
    copies = np.concatenate([np.repeat(vectors[:1], 50, 0), vectors[1:4] + 0.01])
    both = np.concatenate([vectors, copies]).astype(np.float16)
    ids = np.arange(len(both))
    row = np.concatenate([ids, ids[::3]])  # some visit a second cluster
    lists = pa.FixedSizeListArray.from_arrays(pa.array(both[row].reshape(-1)), 16)
    own = np.arange(len(row)) < len(ids)
    columns = [row, row % 4, own, lists]
    table = pa.table(columns, names=[schema.SAMPLE_ID, "cluster", "own", "vector"])
    pairs = near_pairs.of_bucket(table, 0.99)
    found = set(zip(pairs["first"].to_pylist(), pairs["second"].to_pylist(), strict=True))
    planted = {(0, 400 + copy) for copy in range(50)} | {(1, 450), (2, 451), (3, 452)}
    assert found == planted
