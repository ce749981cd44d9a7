"""Manifests of any size over a few real files: rows that name the same files again, as other
samples."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines import schema
from pipelines.corpus.manifest import Manifest, open_manifest, versions
from pipelines.corpus.manifest_writer import write_manifest
from pipelines.storage import uris

ROWS_PER_TABLE = 1 << 16


def grown(uri: str, few: pa.Table, rows: int) -> Manifest:
    """Open the manifest of `rows` samples at a URI, written if it is not there.

    Args:
        uri: Where it lies.
        few: Rows of schema `schema.MANIFEST`, taken in turn.
        rows: How many samples.
    """
    if not versions(uri):
        write_manifest(uri, "/", _cycled(few, rows))
    manifest = open_manifest(uri)
    if manifest.num_rows != rows:
        raise ValueError(
            f"work: {uri} holds {manifest.num_rows} rows, not {rows}: choose another folder"
        )
    return manifest


def _cycled(few: pa.Table, rows: int) -> Iterator[pa.Table]:
    draw = np.random.default_rng(0)
    nothing = {
        "left_out": pa.nulls(ROWS_PER_TABLE, pa.string()),
        "message": pa.nulls(ROWS_PER_TABLE, pa.string()),
    }
    for start in range(0, rows, ROWS_PER_TABLE):
        size = min(ROWS_PER_TABLE, rows - start)
        table = few.take(pa.array(np.arange(start, start + size) % few.num_rows))
        sample_id = draw.integers(-(2**63), 2**63, size=size, dtype=np.int64)
        table = table.set_column(
            table.schema.get_field_index(schema.SAMPLE_ID), schema.MANIFEST.field(0), [sample_id]
        )
        for name, column in nothing.items():
            table = table.append_column(name, column.slice(0, size))
        yield table


def loose_rows(folder: str, limit: int) -> pa.Table:
    """Manifest rows of the first JPEG files of a local folder."""
    files = sorted(path for path in Path(folder).resolve().rglob("*") if path.is_file())
    found = [path for path in files if path.suffix.lower() in (".jpg", ".jpeg")][:limit]
    stats = [path.stat() for path in found]
    columns = {
        schema.SAMPLE_ID: np.arange(len(found)),
        schema.URI: [uris.absolute(str(path)) for path in found],
        schema.OFFSET: np.zeros(len(found), np.int64),
        schema.LENGTH: [stat.st_size for stat in stats],
        "member": pa.nulls(len(found), pa.string()),
        "etag": [f"{stat.st_size}-{stat.st_mtime_ns}" for stat in stats],
        schema.MEDIA: ["image"] * len(found),
        schema.CLIP: pa.nulls(len(found), pa.int32()),
    }
    return pa.table(columns, schema=schema.MANIFEST)
