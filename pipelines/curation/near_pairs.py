"""Pairs of embeddings that are nearly the same: the nearest ones of each within its cluster, by
cosine (SemDeDup, arXiv:2303.09540).

<work>/pairs/00000.parquet    those of a bucket of clusters, found by a Ray task
"""

from collections.abc import Iterator
from functools import partial

import numpy as np
import pyarrow as pa
import torch

from models.clustering.k_means import k_means
from pipelines import schema
from pipelines.curation.assigned import Assignment, in_tasks
from pipelines.embeddings.vector_index import unit
from pipelines.storage import uris
from pipelines.storage.parquet_files import read_table, write_table

NEAREST = 12  # pairs of an embedding at most: groups of more hang together through them
BLOCK_ROWS = 1024  # compared with a whole cluster at a time
MOST_ROWS = 1 << 14  # of a cluster; a larger one is split
FOLDER = "pairs"
PAIRS = pa.schema(
    [
        pa.field("first", pa.int64()),  # sample id, the lower one
        pa.field("second", pa.int64()),
        pa.field("cosine", pa.float32()),
    ]
)
Found = tuple[np.ndarray, np.ndarray, np.ndarray]  # index, index, cosine


def find_pairs(work: Assignment) -> None:
    """Find the pairs of every bucket, in tasks, but for those that are there already."""
    there = set(uris.list_names(uris.join(work.work, FOLDER)))
    names = {bucket: f"{bucket:05d}.parquet" for bucket in range(work.num_buckets)}
    missing = [bucket for bucket, name in names.items() if name not in there]
    for _ in in_tasks(missing, partial(_find, work=work), "comparing embeddings by clusters"):
        pass


def read_pairs(work: Assignment) -> Iterator[pa.Table]:
    """Yield the pairs of every bucket, schema `PAIRS`; a pair may be in two of them."""
    folder = uris.join(work.work, FOLDER)
    for name in uris.list_names(folder):
        yield read_table(uris.join(folder, name))


def _find(items: pa.Table, work: Assignment) -> pa.Table:
    torch.set_num_threads(1)  # the parallelism is Ray's
    for bucket in items["item"].to_pylist():
        table = of_bucket(work.read(bucket), work.min_cosine)
        write_table(uris.join(work.work, FOLDER, f"{bucket:05d}.parquet"), table)
    return pa.table({"done": items["item"]})


def of_bucket(rows: pa.Table, min_cosine: float) -> pa.Table:
    """Find the pairs within each cluster of a bucket, or in a small one as a whole.

    Args:
        rows: Of `Assignment.read`.
        min_cosine: Of a pair, at least.
    """
    if len(rows) <= MOST_ROWS:
        return _of_cluster(_once(rows), min_cosine)
    cluster = rows["cluster"].to_numpy()
    order = np.argsort(cluster, kind="stable")
    edges = np.flatnonzero(np.diff(cluster[order])) + 1
    groups = (rows.take(pa.array(members)) for members in np.split(order, edges))
    return pa.concat_tables([_of_cluster(some, min_cosine) for some in groups])


def _once(rows: pa.Table) -> pa.Table:
    """Keep each sample once: in its own cluster, where that is here."""
    visits = ~rows["own"].to_numpy(zero_copy_only=False)
    order = np.lexsort([visits, rows[schema.SAMPLE_ID].to_numpy()])
    _, first = np.unique(rows[schema.SAMPLE_ID].to_numpy()[order], return_index=True)
    return rows.take(pa.array(order[first]))


def _of_cluster(rows: pa.Table, min_cosine: float) -> pa.Table:
    lists = rows["vector"].combine_chunks()
    flat = lists.flatten().to_numpy(zero_copy_only=False)
    vectors, usable = unit(flat.reshape(len(rows), -1))
    ids = rows[schema.SAMPLE_ID].to_numpy()[usable]
    own = rows["own"].to_numpy(zero_copy_only=False)[usable]
    one, other, cosine = nearest_pairs(vectors, min_cosine)
    # of two visitors, another cluster tells
    ours = own[one] | own[other]
    a, b = ids[one[ours]], ids[other[ours]]
    columns = [np.minimum(a, b), np.maximum(a, b), cosine[ours]]
    return pa.table(columns, names=PAIRS.names).cast(PAIRS)


def nearest_pairs(vectors: np.ndarray, min_cosine: float) -> Found:
    """Pair each vector with its nearest ones.

    Args:
        vectors: (n, D) float32 of length 1.
        min_cosine: Of a pair, at least.
    """
    first, same = _first_of_same(vectors)
    distinct = np.flatnonzero(first == np.arange(len(vectors)))
    one, other, cosine = _among_distinct(vectors[distinct], min_cosine)
    pairs = np.stack([distinct[one], distinct[other]])
    copies = np.stack([first[same], same])
    joined = np.concatenate([pairs, copies], axis=1)
    return joined[0], joined[1], np.concatenate([cosine, np.ones(len(same), np.float32)])


def _first_of_same(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find vectors that are equal to the bit: of each, the first; and those that are not it.

    Thousands of copies would fill each other's nearest ones, and cost the square of their number.
    """
    keys = np.ascontiguousarray(vectors).view(np.dtype((np.void, vectors.shape[1] * 4))).ravel()
    _, index, inverse = np.unique(keys, return_index=True, return_inverse=True)
    first = index[inverse]
    return first, np.flatnonzero(first != np.arange(len(vectors)))


def _among_distinct(vectors: np.ndarray, min_cosine: float) -> Found:
    if len(vectors) > MOST_ROWS:
        return _of_halves(vectors, min_cosine)
    points = torch.from_numpy(np.ascontiguousarray(vectors))
    found = list[Found]()
    k = min(NEAREST + 1, len(points))
    for start in range(0, len(points), BLOCK_ROWS):
        block = points[start : start + BLOCK_ROWS]
        cosine, place = (block @ points.T).topk(k, dim=1)  # (b, k)
        row = torch.arange(start, start + len(block))[:, None].expand_as(place)
        near = (cosine >= min_cosine) & (place != row)
        found.append((row[near].numpy(), place[near].numpy(), cosine[near].numpy()))
    one, other, cosines = (np.concatenate(values) for values in zip(*found, strict=True))
    return np.minimum(one, other), np.maximum(one, other), cosines


def _of_halves(vectors: np.ndarray, min_cosine: float) -> Found:
    """Split a large cluster by k-means, each vector into its two nearest pieces."""
    count = -(-2 * len(vectors) // MOST_ROWS)
    points = torch.from_numpy(np.ascontiguousarray(vectors))
    sample = points[:: max(1, len(vectors) // MOST_ROWS)]
    centres, _ = k_means(sample, count, iterations=10, seed=0)
    near = (points @ centres.T).topk(2, dim=1)[1].numpy()
    found = list[Found]()
    for piece in range(count):
        members = np.flatnonzero((near == piece).any(1))
        for start in range(0, len(members), MOST_ROWS):  # what k-means cannot part
            some = members[start : start + MOST_ROWS]
            one, other, cosine = _among_distinct(vectors[some], min_cosine)
            found.append((some[one], some[other], cosine))
    one, other, cosines = (np.concatenate(values) for values in zip(*found, strict=True))
    return one, other, cosines
