"""Reads exported embeddings: ids and vectors in bounded memory, from Parquet or Lance, local or in
object storage, and what the files say of where they come from.

    with_vectors = open_stored("runs/a-embeddings")     # the out of an export, or its files
    for block in with_vectors.blocks():
        index.add_with_ids(block.vectors, block.ids)    # (n, D) float32, (n,) int64

Every job that reads embeddings reads them here. One place never holds vectors of two encoders:
`open_stored` refuses it. Two places are compared by `provenance.check_same` on their `column`s.
Needs no Ray.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import schema
from pipelines.embeddings import lance_files
from pipelines.embeddings.features import ONE_VECTOR
from pipelines.embeddings.provenance import Provenance, VectorColumn, check_same
from pipelines.storage import uris
from pipelines.storage.parquet_files import open_parquet
from pipelines.storage.small_files import side_by_side

RECORD = "export.json"  # of the job that wrote them
PROGRESS = "progress.json"  # how far it is
FOLDER = "embeddings"
LANCE = f"{FOLDER}{lance_files.SUFFIX}"
BLOCK_ROWS = 8192


@dataclass(frozen=True)
class Block:
    """Some samples of an export, in its order.

    Attributes:
        ids: (n,) int64 sample ids.
        vectors: (n, D) float32; of tokens (n, N, D), of maps (n, D, h, w).
        rows: The further columns that were asked for.
    """

    ids: np.ndarray
    vectors: np.ndarray
    rows: pa.Table


@dataclass(frozen=True)
class Stored:
    """One column of vectors of an export.

    Attributes:
        uri: Folder of the Parquet parts, or the Lance dataset.
        format: Which of them.
        name: Of the column.
        column: How its vectors were made.
        provenance: Of the whole export.
        names: All columns.
        num_rows: Samples, each once.
        parts: Parquet: names of the files, in order.
    """

    uri: str
    format: Literal["parquet", "lance"]
    name: str
    column: VectorColumn
    provenance: Provenance
    names: tuple[str, ...]
    num_rows: int
    parts: tuple[str, ...] = ()

    @property
    def dim(self) -> int:
        """Return the values of one sample: D, of tokens and maps all of them."""
        return int(np.prod(self.column.shape))

    def check_one_vector(self, who: str, *, frames: bool, key: str = "embeddings") -> None:
        """Refuse tokens and maps.

        Args:
            who: Who needs one vector a sample, and what for, as `a search compares`.
            frames: Whether a sample may have a row for every frame.
            key: What the command line calls the place.

        Raises:
            ValueError: a sample has more than one vector.
        """
        by_frame = schema.FRAME in self.names and not frames
        if self.column.form not in ONE_VECTOR or by_frame:
            what = "a row a frame" if by_frame else self.column.form
            raise ValueError(
                f"{key} {self.uri} holds {what}, and {who} one vector a sample: export pooled"
                " embeddings"
            )

    def blocks(
        self, columns: Sequence[str] = (), *, block_rows: int = BLOCK_ROWS
    ) -> Iterator[Block]:
        """Stream all samples; the order is the same every time.

        Args:
            columns: Further columns to read, as `schema.URI`.
            block_rows: Samples of a block, at most.

        Raises:
            ValueError: a column that is not there.
        """
        if missing := [name for name in columns if name not in self.names]:
            raise ValueError(
                f"{self.uri} has no column {missing[0]}: it has {', '.join(self.names)}"
            )
        wanted = list(dict.fromkeys([schema.SAMPLE_ID, self.name, *columns]))
        for batch in self._batches(wanted, block_rows):
            ids = batch.column(schema.SAMPLE_ID).to_numpy()
            vectors = vectors_of(batch.column(self.name)).reshape(-1, *self.column.shape)
            yield Block(ids, vectors, pa.Table.from_batches([batch]).select(list(columns)))

    def piece(
        self,
        number: int,
        count: int,
        columns: Sequence[str] = (),
        *,
        block_rows: int = BLOCK_ROWS,
    ) -> Iterator[Block]:
        """Stream one of so many pieces of the samples, with further columns; of Parquet, whole
        files."""
        wanted = [schema.SAMPLE_ID, self.name, *columns]
        for batch in self._of_piece(number, count, wanted, block_rows):
            ids = batch.column(schema.SAMPLE_ID).to_numpy()
            vectors = vectors_of(batch.column(self.name)).reshape(-1, *self.column.shape)
            yield Block(ids, vectors, pa.Table.from_batches([batch]).select(list(columns)))

    def _of_piece(
        self, number: int, count: int, columns: list[str], block_rows: int
    ) -> Iterator[pa.RecordBatch]:
        if self.format == "lance":
            first = self.num_rows * number // count
            rows = self.num_rows * (number + 1) // count - first
            dataset = lance_files.open_dataset(self.uri)
            yield from dataset.to_batches(
                columns=columns, offset=first, limit=rows, batch_size=block_rows
            )
            return
        first = len(self.parts) * number // count
        for name in self.parts[first : len(self.parts) * (number + 1) // count]:
            with open_parquet(uris.join(self.uri, name)) as file:
                yield from file.iter_batches(block_rows, columns=columns)

    def _batches(self, columns: list[str], block_rows: int) -> Iterator[pa.RecordBatch]:
        if self.format == "lance":
            dataset = lance_files.open_dataset(self.uri)
            yield from dataset.to_batches(
                columns=columns, batch_size=block_rows, scan_in_order=True, batch_readahead=2
            )
            return
        for name in self.parts:
            file = open_parquet(uris.join(self.uri, name))
            yield from file.iter_batches(block_rows, columns=columns)


def vectors_of(column: pa.Array) -> np.ndarray:
    """Return a column of lists of one length as (n, values) float32."""
    values = column.flatten().to_numpy(zero_copy_only=False)
    size = len(values) // max(1, len(column))
    vectors: np.ndarray = np.asarray(values, np.float32).reshape(len(column), size)
    return vectors


def open_stored(uri: str, column: str | None = None, *, key: str = "embeddings") -> Stored:
    """Open exported embeddings.

    Args:
        uri: What `jobs.export` was given as `out`, the folder of Parquet parts in it, or a Lance
            dataset.
        column: Which vectors, where the export has several; None: its only ones.
        key: What the command line calls the place, for messages.

    Raises:
        ValueError: none there, an export that is not finished, vectors of two encoders, or no such
            column; in one line with the remedy.
    """
    uri = uris.absolute(uri)
    _check_finished(uri, key)
    place, is_lance = _place(uri, key)
    return (_open_lance if is_lance else _open_parquet)(place, column, key)


def _check_finished(uri: str, key: str) -> None:
    """Refuse an export that was begun and has not come to its end."""
    told = _json(uris.join(uri, PROGRESS))
    if told.get("complete") != told.get("manifest_version"):
        raise ValueError(
            f"{key} {uri} is an export that is not finished: run the same jobs.export again"
        )


def _json(place: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(uris.read_bytes(place)) if uris.exists(place) else {}
    return found


def _place(uri: str, key: str) -> tuple[str, bool]:
    """Find the files below a place, itself or what lies in an export's folder, whatever that is
    called, and tell whether they are a Lance dataset."""
    names = uris.list_names(uri)
    for name in (LANCE, FOLDER):
        if name in names:
            return uris.join(uri, name), name == LANCE
    if lance_files.VERSIONS in names:
        return uri.rstrip("/"), True
    if any(map(_is_part, names)):
        return uri, False
    raise ValueError(f"{key} {uri} holds no embeddings: give the out of jobs.export")


def _is_part(name: str) -> bool:
    return name.startswith("part-") and name.endswith(".parquet")


def _open_lance(place: str, column: str | None, key: str) -> Stored:
    dataset = lance_files.open_dataset(place)
    provenance = Provenance.read(dataset.schema.metadata)
    if provenance is None:
        raise ValueError(f"{key} {place} was not written by jobs.export: it names no encoder")
    name = _chosen(provenance, column, place, key)
    return Stored(
        uri=place,
        format="lance",
        name=name,
        column=provenance.columns[name],
        provenance=provenance,
        names=tuple(dataset.schema.names),
        num_rows=dataset.count_rows(),
    )


def _open_parquet(place: str, column: str | None, key: str) -> Stored:
    parts = tuple(filter(_is_part, uris.list_names(place)))
    if not parts:
        raise ValueError(f"{key} {place} holds no embeddings: give the out of jobs.export")
    footers = list(side_by_side(partial(_footer, place), parts))
    first = footers[0]
    for part, footer in zip(parts, footers, strict=True):
        for name, one in footer.provenance.columns.items():
            if name in first.provenance.columns:
                known = first.provenance.columns[name]
                check_same(f"{key} {place}: {parts[0]}", known, part, one)
    name = _chosen(first.provenance, column, place, key)
    return Stored(
        uri=place,
        format="parquet",
        name=name,
        column=first.provenance.columns[name],
        provenance=first.provenance,
        names=first.names,
        num_rows=sum(footer.num_rows for footer in footers),
        parts=parts,
    )


class _Footer(NamedTuple):
    provenance: Provenance
    names: tuple[str, ...]
    num_rows: int


def _footer(place: str, part: str) -> _Footer:
    """Read what a part says of itself; of parts of earlier versions what stands in their rows and
    beside them."""
    with open_parquet(uris.join(place, part)) as file:
        told = file.schema_arrow
        provenance = Provenance.read(told.metadata) or _of_earlier(file, place)
        return _Footer(provenance, tuple(told.names), file.metadata.num_rows)


def _of_earlier(file: pq.ParquetFile, place: str) -> Provenance:
    record = _json(uris.join(place.rstrip("/").rpartition("/")[0], RECORD))
    kind = file.schema_arrow.field(schema.EMBEDDING).type
    digest = str(record.get("artifact_digest"))
    if file.metadata.num_rows:
        digest = file.read_row_group(0, columns=[schema.DIGEST])[schema.DIGEST][0].as_py()
    column = VectorColumn(
        artifact="",
        artifact_digest=digest,
        encoder="",
        kind="pretrained",
        pooling="auto",
        layer=None,
        last_blocks=1,
        form="pooled",
        normalised=False,
        dtype="float16" if pa.types.is_float16(kind.value_type) else "float32",
        shape=(kind.list_size,),
        preprocess={},
    )
    version = int(record.get("manifest_version", 0))
    return Provenance(str(record.get("source", "")), version, {schema.EMBEDDING: column})


def _chosen(provenance: Provenance, column: str | None, place: str, key: str) -> str:
    names = list(provenance.columns)
    if column is None and len(names) == 1:
        return names[0]
    if column in names:
        return str(column)
    asked = f"no column {column}" if column else "vectors of several encoders"
    raise ValueError(f"{key} {place} has {asked}: choose column={names[0]} of {', '.join(names)}")
