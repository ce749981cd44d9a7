"""Writes what is known of each sample of a map: a table for other programs, and the same in small
files that the page loads as they are needed.

Samples are written in the order of the map, the export is read in its own: rows are laid out on
local disk between the two, so memory holds a 256th of them at a time.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import schema
from pipelines.atlas import script_files, thumbnails
from pipelines.atlas.chosen import Chosen
from pipelines.atlas.colours import shown_value
from pipelines.atlas.near_points import Near
from pipelines.embeddings.stored_rows import scan
from pipelines.storage import uris
from pipelines.storage.spill import NUM_BUCKETS, Spill

FILE_ROWS = 1024  # samples of a file for the page: about 200 kB
FUNCTION = "rows"
POINT = "point"
_TOLD = (schema.SAMPLE_ID, schema.URI, schema.MEMBER, schema.CLIP, schema.START_S, schema.END_S)
_IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
_NEIGHBORS = pa.struct(
    [pa.field("ids", pa.list_(pa.int32())), pa.field("distances", pa.list_(pa.float32()))]
)


def told_columns(chosen: Chosen) -> list[str]:
    """Return the columns of an export that the table has as they are."""
    own = {schema.KEY, schema.DIGEST, *chosen.stored.provenance.columns}
    return [*_TOLD, *(name for name in chosen.stored.names if name not in {*own, *_TOLD})]


@dataclass(frozen=True, eq=False)
class Drawn:
    """What the map says of each sample, in the map's order.

    Attributes:
        positions: (n, 2) float32.
        order: (n,) the sample, as chosen, that comes at each place.
        near: Neighbours, in the map's order.
        more: Further columns by name, (n,) each.
        pictured: (n,) int32, number of each sample's thumbnail; -1 where there is none.
        pictures: Folder of the thumbnails.
    """

    positions: np.ndarray
    order: np.ndarray
    near: Near
    more: dict[str, pa.Array]
    pictured: np.ndarray
    pictures: str


@dataclass(frozen=True, eq=False)
class PointRows:
    """Writes the rows of a map.

    Attributes:
        chosen: The samples.
        drawn: What the map says of them.
        scratch: A local folder.
    """

    chosen: Chosen
    drawn: Drawn
    scratch: str

    @cached_property
    def _schema(self) -> pa.Schema:
        """Return the columns as they come from the export, with the place on the map."""
        table = next((table for _, table in scan(self.chosen.stored, self._names)))
        fields = [pa.field(one.name, one.type) for one in table.schema]
        return pa.schema([pa.field(POINT, pa.int64()), *fields])

    @cached_property
    def _names(self) -> list[str]:
        return told_columns(self.chosen)

    @property
    def _files(self) -> int:
        return -(-len(self.drawn.order) // FILE_ROWS)

    def write(self, table_uri: str, folder: str) -> int:
        """Write the table, and the files for the page into a folder.

        Returns:
            Samples whose thumbnail could not be made of what is there.
        """
        spill = self._laid_out()
        unreadable = 0
        with uris.open_atomic(table_uri) as file:
            writer: pq.ParquetWriter | None = None
            for bucket in range(NUM_BUCKETS):
                rows = spill.read(bucket)
                if not rows.num_rows:
                    continue
                rows = rows.sort_by(POINT).combine_chunks()
                images = self._images(rows[POINT].to_numpy())
                unreadable += images.count(b"")
                whole = self._whole(rows, images)
                if writer is None:
                    writer = pq.ParquetWriter(file, whole.schema, compression="zstd")
                writer.write_table(whole)
                self._write_files(rows, folder)
            assert writer is not None
            writer.close()
        return unreadable

    def _laid_out(self) -> Spill:
        """Read the export once, and put each row into the bucket of its place on the map."""
        place = np.empty(len(self.drawn.order), np.int64)
        place[self.drawn.order] = np.arange(len(place))
        spill = Spill(os.path.join(self.scratch, "rows"), self._schema)
        rows = self.chosen.rows
        for start, table in scan(self.chosen.stored, self._names):
            low, high = np.searchsorted(rows, (start, start + table.num_rows))
            points = place[low:high]
            some = table.take(pa.array(rows[low:high] - start))
            columns = [pa.array(points), *some.columns]
            laid = pa.table(columns, names=self._schema.names).cast(self._schema)
            spill.add(laid, points // FILE_ROWS * NUM_BUCKETS // self._files)
        return spill

    def _images(self, points: np.ndarray) -> list[bytes | None]:
        """Return the thumbnail of each sample: empty where it could not be made, None where none
        was asked for."""
        numbers = self.drawn.pictured[points]
        found = dict[int, list[bytes]]()
        images = list[bytes | None]()
        for number in numbers.tolist():
            if number < 0:
                images.append(None)
                continue
            file, slot = divmod(number, thumbnails.FILE_ROWS)
            if file not in found:
                found = {file: thumbnails.read(self.drawn.pictures, file)}
            images.append(found[file][slot])
        return images

    def _whole(self, rows: pa.Table, images: list[bytes | None]) -> pa.Table:
        """Add what the map says, under the names that embedding-atlas is told."""
        points = rows[POINT].to_numpy()
        more: dict[str, Any] = {
            "x": self.drawn.positions[points, 0],
            "y": self.drawn.positions[points, 1],
        }
        more |= {name: values.take(pa.array(points)) for name, values in self.drawn.more.items()}
        more["image"] = pa.array(
            [{"bytes": one, "path": None} if one else None for one in images], _IMAGE
        )
        more["neighbors"] = pa.array(list(self._neighbours(points)), _NEIGHBORS)
        names = [f"export_{name}" if name in more else name for name in self._names]
        kept = pa.table([rows[name] for name in self._names], names=names)
        for name, values in more.items():
            kept = kept.append_column(name, pa.array(values) if name in "xy" else values)
        return kept

    def _neighbours(self, points: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
        near = self.drawn.near
        for ids, cosine in zip(near.points[points], near.cosine[points], strict=True):
            there = ids >= 0
            yield {"ids": ids[there], "distances": np.maximum(1 - cosine[there], 0)}

    def _write_files(self, rows: pa.Table, folder: str) -> None:
        """Write the files of the page whose samples lie in a bucket."""
        for start in range(0, rows.num_rows, FILE_ROWS):
            some = rows.slice(start, FILE_ROWS)
            points = some[POINT].to_numpy()
            number = int(points[0]) // FILE_ROWS
            columns = {
                name: [shown_value(value) for value in some[name].to_pylist()]
                for name in self._names
            }
            columns[schema.SAMPLE_ID] = [str(value) for value in columns[schema.SAMPLE_ID]]
            told = {name: values for name, values in columns.items() if any(_is_there(values))}
            near = self.drawn.near
            steps = np.round(np.clip(near.cosine[points], 0, 1) * 65535).astype(np.uint16)
            script_files.write(
                uris.join(folder, f"{number:06d}.js"),
                FUNCTION,
                number,
                told,
                script_files.packed(near.points[points]),
                script_files.packed(steps),
            )


def _is_there(values: list[Any]) -> Iterator[bool]:
    return (value is not None for value in values)
