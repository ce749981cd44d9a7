"""Writes predictions as Parquet parts named by the manifest rows that they answer for: exactly one
row a sample of which anything could be read."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines import schema
from pipelines.embeddings.parts import part_name
from pipelines.embeddings.provenance import KEY, Provenance
from pipelines.embeddings.sinks import key_of
from pipelines.labels.labelled_rows import below
from pipelines.predictions.told_columns import Samples, Told
from pipelines.predictions.whole_videos import WholeVideos
from pipelines.storage import uris
from pipelines.storage.lease import Fence
from pipelines.storage.parquet_files import write_table


@dataclass(frozen=True)
class PredictionSink:
    """Writes one part for each whole batch of the order's `part_rows` positions.

    Attributes:
        out: Folder of the parts.
        order: Positions to manifest rows.
        told: What is told of a sample.
        root: Folder below which the names of samples begin, with its slash.
        digest: The artifact's.
        metadata: Of the parts' own schema.
        fence: Of the lease on the folder; None: there is none.
    """

    out: str
    order: WholeVideos
    told: Told
    root: str
    digest: str
    metadata: dict[bytes, bytes]
    fence: Fence | None = None

    def write(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Write the batch's part."""
        position = batch[schema.POSITION]
        index, offset = divmod(int(position[0]), self.order.part_rows)
        rows = self.order.part(index)
        whole = len(position) in (self.order.part_rows, rows.num_rows)
        if offset or not whole or int(position[-1]) - int(position[0]) + 1 != len(position):
            raise RuntimeError(
                f"positions {position[0]} to {position[-1]} do not make one part: please report"
                " this"
            )
        valid = batch[schema.VALID][: rows.num_rows]
        starts = rows[schema.CLIP].to_numpy() == 0
        samples = self._samples(rows, starts, valid)
        table = self._table(batch, samples)
        write_table(uris.join(self.out, part_name(self.order.rows_of(index))), table, self.fence)
        num_rows = table.num_rows
        lost = int(starts.sum()) - num_rows
        counts = {"rows": num_rows, "samples": num_rows, "quarantined": lost}
        counts["retries"] = batch[schema.RETRIES].sum()
        return {name: np.array([count]) for name, count in counts.items()}

    def _samples(self, rows: pa.Table, starts: np.ndarray, valid: np.ndarray) -> Samples:
        """Find the samples of which a clip could be read."""
        clips = np.flatnonzero(valid)
        of_clip = np.cumsum(starts)[clips] - 1
        found, first, owner = np.unique(of_clip, return_index=True, return_inverse=True)
        chosen = rows.take(pa.array(np.flatnonzero(starts)[found]))
        places = zip(chosen[schema.URI].to_pylist(), chosen[schema.MEMBER].to_pylist(), strict=True)
        names = [sample_name(self.root, uri, member) for uri, member in places]
        return Samples(chosen, clips[first], owner, clips, names)

    def _table(self, batch: dict[str, np.ndarray], samples: Samples) -> pa.Table:
        rows = samples.rows
        clips = np.bincount(samples.owner, minlength=rows.num_rows).astype(np.int32)
        keys = [key_of(member) for member in rows[schema.MEMBER].to_pylist()]
        columns = {
            schema.SAMPLE_ID: rows[schema.SAMPLE_ID],
            schema.URI: rows[schema.URI],
            schema.MEMBER: rows[schema.MEMBER],
            schema.KEY: pa.array(keys, pa.string()),
            schema.CLIPS: pa.array(clips),
            **self.told.columns(batch, samples, self.fence),
            schema.DIGEST: pa.array([self.digest] * rows.num_rows, pa.string()),
        }
        kind = schema.predictions(self.told.fields).with_metadata(self.metadata)
        return pa.table(columns, schema=kind)


def sample_name(root: str, uri: str, member: str | None) -> str:
    """Return where a sample lies below a folder that ends in a slash; a member below its shard,
    since two shards may have one of the same name."""
    outside = "://" in uri and not uri.startswith(root)
    name = below(root, uri.partition("://")[2] if outside else uri, None)
    return name if member is None else f"{name}/{below('', member, None)}"


def metadata_of(source: str, manifest_version: int, told: dict[str, Any]) -> dict[bytes, bytes]:
    """Return what parts of predictions say of themselves, under the key that exports use."""
    provenance = json.loads(Provenance(source, manifest_version, {}).metadata()[KEY])
    return {KEY: json.dumps(provenance | {"predictions": told}, sort_keys=True).encode()}
