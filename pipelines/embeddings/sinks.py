"""Writes embeddings as Parquet parts named by the rows they hold, so that a rerun writes only what
is missing."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray.data

from pipelines import schema
from pipelines.embeddings.provenance import Provenance
from pipelines.ray_tasks import map_in_tasks
from pipelines.storage import uris
from pipelines.storage.lease import Fence
from pipelines.stream.orders import ManifestOrder


def part_name(start: int, stop: int) -> str:
    """Name the file of the embeddings of manifest rows [start, stop)."""
    return f"part-{start:012d}-{stop:012d}.parquet"


def parts(num_rows: int, part_rows: int) -> list[tuple[int, int]]:
    """Return the ranges of manifest rows, one a part."""
    return [(start, min(start + part_rows, num_rows)) for start in range(0, num_rows, part_rows)]


@dataclass(frozen=True)
class EmbeddingSink:
    """Writes one part for each whole batch of `part_rows` rows.

    Attributes:
        out: Folder of the parts.
        order: Positions to manifest rows, for the URIs.
        num_rows: Rows of the manifest.
        part_rows: Rows of every part but the last.
        digest: The artifact's.
        half: float16 instead of float32.
        provenance: For the parts' own metadata; its shapes are those of the vectors.
        fence: Of the export's lease on the folder; None: it holds none.
    """

    out: str
    order: ManifestOrder
    num_rows: int
    part_rows: int
    digest: str
    half: bool
    provenance: Provenance
    fence: Fence | None = None

    def write(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Write the batch's part; returns one row: `rows` written, `quarantined`, and storage
        `retries` in reading."""
        position = batch[schema.POSITION]
        valid = batch[schema.VALID]
        start = int(position[0])
        stop = int(position[-1]) + 1
        if start % self.part_rows or not len(position) == stop - start == min(
            self.part_rows, self.num_rows - start
        ):
            raise RuntimeError(
                f"rows {start} to {stop} do not make one part of {self.part_rows}: please report"
                " this"
            )
        rows = pa.concat_tables(self.order.rows(start, stop)).filter(pa.array(valid))
        embedding = batch[schema.EMBEDDING][valid].astype(np.float16 if self.half else np.float32)
        dtype = pa.float16() if self.half else pa.float32()
        start_s, end_s = (
            pa.array(batch[name][valid], from_pandas=True)  # NaN becomes null
            for name in (schema.START_S, schema.END_S)
        )
        columns = {
            schema.SAMPLE_ID: rows[schema.SAMPLE_ID],
            schema.URI: rows[schema.URI],
            schema.MEMBER: rows[schema.MEMBER],
            schema.KEY: pa.array(
                [_key(name) for name in rows[schema.MEMBER].to_pylist()], pa.string()
            ),
            schema.CLIP: rows[schema.CLIP],
            schema.START_S: start_s,
            schema.END_S: end_s,
            schema.EMBEDDING: pa.FixedSizeListArray.from_arrays(
                pa.array(embedding.reshape(-1), dtype), embedding.shape[1]
            ),
            schema.DIGEST: pa.array([self.digest] * rows.num_rows, pa.string()),
        }
        kind = schema.embeddings(embedding.shape[1], dtype)
        table = pa.table(columns, schema=kind.with_metadata(self.provenance.metadata()))
        with uris.open_atomic(uris.join(self.out, part_name(start, stop))) as file:
            pq.write_table(table, file)
            if self.fence:
                self.fence.check()
        counts = {"rows": table.num_rows, "quarantined": len(valid) - table.num_rows}
        return {
            name: np.array([count])
            for name, count in {**counts, "retries": batch[schema.RETRIES].sum()}.items()
        }


def _key(member: str | None) -> str | None:
    """Return what WebDataset groups the files of a shard by: the name up to the first dot of its
    last part."""
    if member is None:
        return None
    folder, slash, name = member.rpartition("/")
    return f"{folder}{slash}{name.partition('.')[0]}"


def write_part(batch: dict[str, np.ndarray], sink: EmbeddingSink) -> dict[str, np.ndarray]:
    """Write one part; a function, since Ray Data takes callable objects for actors."""
    return sink.write(batch)


def write_embeddings(embeddings: ray.data.Dataset, sink: EmbeddingSink) -> Iterator[dict[str, int]]:
    """Write a stream of embeddings of whole parts, in order.

    Yields:
        So far: `rows` written, samples `quarantined` and `retries`, storage requests tried again in
            reading.
    """
    write = partial(write_part, sink=sink)
    written = map_in_tasks(embeddings, write, batch_size=sink.part_rows, num_cpus=0.1)
    totals = dict.fromkeys(("rows", "quarantined", "retries"), 0.0)
    for batch in written.iter_batches(batch_size=None):
        totals = {name: total + float(batch[name].sum()) for name, total in totals.items()}
        yield {name: round(total) for name, total in totals.items()}
