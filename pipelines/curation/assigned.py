"""Assigns every embedding to its cluster, in Ray tasks, and lays the vectors out by cluster.

<work>/rows/00000-000.arrow      vectors of a piece, a batch for each bucket of clusters
<work>/clusters/00000.parquet    which cluster each sample of a piece is in; written last

A task begins with what is not there yet. Vectors are kept as float16. An embedding near the border
of its cluster also visits the one behind it, as a pair of duplicates may lie on both sides.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import ray.data

from pipelines import schema
from pipelines.curation.caption_fit import COLUMNS, CaptionFit
from pipelines.curation.centres import Centres, draw, learn, num_clusters, num_samples
from pipelines.embeddings.stored import Stored
from pipelines.embeddings.vector_index import unit
from pipelines.ray_tasks import map_in_tasks, said_to
from pipelines.storage import uris
from pipelines.storage.parquet_files import read_table, write_table
from pipelines.stream.sealed import seal

PIECE_BYTES = 1 << 25  # of vectors, as float32, that a task holds at once
PIECE_PORTIONS = 4  # of a piece
BUCKET_BYTES = 1 << 25  # of vectors, as float16, that are compared together, about
MOST_BUCKETS = 256
LEARNT_PIECES = 64  # that the centres are learnt from, at most
CLUSTERS = pa.schema(
    [
        pa.field(schema.SAMPLE_ID, pa.int64()),
        pa.field("cluster", pa.int32()),
        pa.field("cosine", pa.float32()),  # with the cluster's centre
        pa.field("fit", pa.float32()),  # with its captions; null: not looked at, or there are none
    ]
)


@dataclass(frozen=True, eq=False)
class Assignment:
    """What a task needs to know.

    Attributes:
        stored: The embeddings.
        centres: The clusters.
        work: Folder of the files.
        num_buckets: Into which the clusters are put, neighbours by number together.
        min_cosine: Of two samples that may be duplicates.
        fit: How captions are compared with samples; None: they are not.
    """

    stored: Stored
    centres: Centres
    work: str
    num_buckets: int
    min_cosine: float
    fit: CaptionFit | None = None

    @property
    def rows(self) -> str:
        """Return the folder of the vectors."""
        return uris.join(self.work, "rows")

    @property
    def clusters(self) -> str:
        """Return the folder that says which sample is in which cluster."""
        return uris.join(self.work, "clusters")

    @property
    def schema(self) -> pa.Schema:
        """Return the columns of a file of vectors."""
        vector = pa.list_(pa.float16(), self.stored.dim)
        names = [pa.field(schema.SAMPLE_ID, pa.int64()), pa.field("cluster", pa.int32())]
        return pa.schema([*names, pa.field("own", pa.bool_()), pa.field("vector", vector)])

    def bucket(self, cluster: np.ndarray) -> np.ndarray:
        """Return the bucket of each cluster."""
        found: np.ndarray = cluster.astype(np.int64) * self.num_buckets // len(self.centres.lowest)
        return found

    def assign(self, piece: int) -> int:
        """Write the files of one piece of the export; returns its samples."""
        found = list[pa.Table]()
        columns = COLUMNS if self.fit else ()
        for number, (ids, vectors, rows) in enumerate(_pieces(self.stored, piece, columns)):
            scaled, usable = unit(vectors)
            cluster, cosine = self.centres.nearest(scaled)
            fit: pa.Array = pa.nulls(len(scaled), pa.float32())
            if self.fit is not None:
                told = self.fit.cosines(rows.filter(pa.array(usable)), scaled)
                fit = pa.array(told, from_pandas=True)
            own = pa.table([ids[usable], cluster[:, 0], cosine[:, 0], fit], names=CLUSTERS.names)
            found.append(own.cast(CLUSTERS))
            laid = self._laid_out(ids[usable], scaled, cluster, cosine)
            self._write(uris.join(self.rows, f"{piece:05d}-{number:03d}.arrow"), laid)
        table = pa.concat_tables([CLUSTERS.empty_table(), *found])
        write_table(uris.join(self.clusters, f"{piece:05d}.parquet"), table)
        return int(table.num_rows)

    def _laid_out(
        self, ids: np.ndarray, vectors: np.ndarray, cluster: np.ndarray, cosine: np.ndarray
    ) -> pa.Table:
        """Put a row for each cluster that an embedding is in or visits, by cluster."""
        first = self.centres.lowest[cluster[:, 0]]
        second = self.centres.lowest[np.maximum(cluster[:, 1], 0)]
        # |(x - y)(c1 - c2)| <= |x - y| |c1 - c2|: a duplicate y can only be on the other side where
        # x lies no further from the border than that
        reach = np.sqrt(max(0.0, 2 - 2 * self.min_cosine)) * np.linalg.norm(first - second, axis=1)
        visits = np.flatnonzero(cosine[:, 0] - cosine[:, 1] <= reach)
        row = np.concatenate([np.arange(len(ids)), visits])
        where = np.concatenate([cluster[:, 0], cluster[visits, 1]])
        own = np.arange(len(row)) < len(ids)
        order = np.argsort(where, kind="stable")
        flat = pa.array(vectors[row[order]].astype(np.float16).reshape(-1))
        lists = pa.FixedSizeListArray.from_arrays(flat, self.stored.dim)
        columns = [ids[row[order]], where[order].astype(np.int32), own[order], lists]
        return pa.table(columns, schema=self.schema)

    def _write(self, uri: str, table: pa.Table) -> None:
        bucket = self.bucket(table["cluster"].to_numpy())
        edges = np.searchsorted(bucket, np.arange(self.num_buckets + 1))
        table = table.combine_chunks()
        with uris.open_atomic(uri) as file, pa.ipc.new_file(file, self.schema) as writer:
            for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
                some = table.slice(start, stop - start).to_batches()
                writer.write_batch(some[0] if some else _no_rows(self.schema))

    def read(self, bucket: int) -> pa.Table:
        """Read all rows of a bucket."""
        found = [self.schema.empty_table()]
        for name in uris.list_names(self.rows):
            fs, path = uris.arrow_filesystem(uris.join(self.rows, name))
            with fs.open_input_file(path) as file:
                batch = pa.ipc.open_file(file).get_batch(bucket)
                found.append(pa.Table.from_batches([batch]))
        return pa.concat_tables(found)

    def tables(self) -> Iterator[pa.Table]:
        """Yield the cluster of every sample, schema `CLUSTERS`, a piece at a time."""
        for name in uris.list_names(self.clusters):
            yield read_table(uris.join(self.clusters, name))


def _no_rows(kind: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema=kind)


def num_buckets(num_rows: int, dim: int, clusters: int) -> int:
    """Return how many buckets the clusters are put into."""
    size = 2 * num_rows * 2 * dim  # each embedding at most twice, two bytes a feature
    return max(1, min(MOST_BUCKETS, clusters, -(-size // BUCKET_BYTES)))


def num_pieces(stored: Stored) -> int:
    """Return how many pieces an export is read in, a task each."""
    count = max(1, -(-stored.num_rows * 4 * stored.dim // (PIECE_PORTIONS * PIECE_BYTES)))
    return min(count, len(stored.parts)) if stored.format == "parquet" else count


def learn_centres(stored: Stored, wanted: int | None, seed: int) -> Centres:
    """Learn the clusters of an export from embeddings of some of its pieces.

    Args:
        stored: The export.
        wanted: Clusters of the lowest level; None: as suits its size.
        seed: Of the sample, and of the centres begun with.

    Raises:
        ValueError: no embedding is finite and not zero.
    """
    count = num_clusters(stored.num_rows, stored.dim, wanted)
    pieces = num_pieces(stored)
    some = np.unique(np.linspace(0, pieces - 1, min(pieces, LEARNT_PIECES)).astype(int)).tolist()
    rows = stored.num_rows * len(some) / pieces
    share = num_samples(stored.num_rows, stored.dim, count) / max(1.0, rows)
    blocks = (vectors for piece in some for _, vectors, _ in _blocks(stored, piece))
    sample = draw(blocks, share, seed)
    if not len(sample):
        raise ValueError(f"no embedding of {stored.uri} is finite and not zero")
    return learn(sample, count, seed)


_Portion = tuple[np.ndarray, np.ndarray, pa.Table]


def _pieces(stored: Stored, piece: int, columns: Sequence[str]) -> Iterator[_Portion]:
    """Yield ids, vectors and further columns of a piece in portions of about `PIECE_BYTES`."""
    most = max(1, PIECE_BYTES // (4 * stored.dim))
    waiting = list[_Portion]()
    for block in _blocks(stored, piece, columns):
        waiting.append(block)
        if sum(len(ids) for ids, _, _ in waiting) >= most:
            yield _joined(waiting)
            waiting = []
    if waiting:
        yield _joined(waiting)


def _joined(blocks: list[_Portion]) -> _Portion:
    ids, vectors, rows = zip(*blocks, strict=True)
    return np.concatenate(ids), np.concatenate(vectors), pa.concat_tables(rows)


def _blocks(stored: Stored, piece: int, columns: Sequence[str] = ()) -> Iterator[_Portion]:
    for block in stored.piece(piece, num_pieces(stored), columns):
        yield block.ids, block.vectors, block.rows


def assign(work: Assignment) -> int:
    """Assign every embedding, in tasks, but what is there already; returns the pieces."""
    there = set(uris.list_names(work.clusters))
    count = num_pieces(work.stored)
    missing = [piece for piece in range(count) if f"{piece:05d}.parquet" not in there]
    for _ in in_tasks(missing, partial(_assign, work=work), "assigning pieces to clusters"):
        pass
    return count


def _assign(items: pa.Table, work: Assignment) -> pa.Table:
    return pa.table({"done": [work.assign(piece) for piece in items["item"].to_pylist()]})


def in_tasks(items: list[int], function: object, doing: str) -> Iterator[pa.Table]:
    """Apply a function to numbers, a task each.

    Args:
        items: The numbers.
        function: Of a table with the column `item`, to a table.
        doing: What it does, for people who wait.
    """
    if not items:
        return
    dataset = ray.data.from_blocks([pa.table({"item": [item]}) for item in items])
    dataset.context.execution_no_progress_timeout_s = -1
    sealed = seal(function)  # type: ignore[arg-type]
    done = map_in_tasks(dataset, sealed, batch_size=None, batch_format="pyarrow")
    said_to(done, doing, len(items))
    yield from done.iter_batches(batch_size=None, batch_format="pyarrow")
