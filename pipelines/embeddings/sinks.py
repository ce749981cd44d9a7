"""Writes embeddings in parts named by the rows they answer for, so that a rerun writes only what is
missing."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Protocol

import numpy as np
import pyarrow as pa
import ray.data

from pipelines import schema
from pipelines.embeddings.part_files import PartFiles
from pipelines.embeddings.parts import Range
from pipelines.embeddings.provenance import Provenance
from pipelines.packing.carried import Carried
from pipelines.ray_tasks import map_in_tasks, said_to
from pipelines.storage.lease import Fence
from pipelines.stream.orders import Order

COUNTS = ("rows", "samples", "quarantined", "retries")
CUT = "videos_cut"
LONGEST = "longest_frames"
_ROUNDED_S = 0.002  # by as much do time stamps in whole milliseconds err, of start and end together


@dataclass(frozen=True)
class EmbeddingSink:
    """Writes one part for each batch of the stream.

    Attributes:
        files: Where to.
        order: Positions to manifest rows.
        parts: First position of each part that is to be written, to its last and one more, and to
            the stored rows that it answers for.
        provenance: For the parts' own metadata; its shapes are those of the vectors.
        carried: Further columns.
        fps: Of clips of which every frame becomes a row, frames per second; None: a row a sample.
        fence: Of the export's lease on the folder; None: it holds none.
    """

    files: PartFiles
    order: Order
    parts: Mapping[int, tuple[int, Range]]
    provenance: Provenance
    carried: Carried | None = None
    fps: float | None = None
    fence: Fence | None = None

    @cached_property
    def schema(self) -> pa.Schema:
        """Return the schema of the files, with what they say of themselves."""
        frame = [pa.field(schema.FRAME, pa.int32(), nullable=False)] if self.fps else []
        carried = self.carried.fields if self.carried else []
        vectors = {
            name: (
                int(np.prod(column.shape)),
                pa.float16() if column.dtype == "float16" else pa.float32(),
            )
            for name, column in self.provenance.columns.items()
        }
        made = schema.embeddings(vectors, [*frame, *carried])
        return made.with_metadata(self.provenance.metadata())

    def write(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Write the batch's part; returns one row: `rows` written, of so many `samples`,
        `quarantined`, and storage `retries` in reading; of frames the videos that are longer than a
        clip (`CUT`, `LONGEST`), and for each carried column how many of the rows have something in
        it, under `in_column` of its name."""
        position = batch[schema.POSITION]
        valid = batch[schema.VALID]
        start = int(position[0])
        stop = int(position[-1]) + 1
        end, answers_for = self.parts.get(start, (-1, (0, 0)))
        if not end - start == len(position) == stop - start:
            raise RuntimeError(f"rows {start} to {stop} do not make one part: please report this")
        rows = pa.concat_tables(self.order.rows(start, stop)).filter(pa.array(valid))
        table = self._table(rows, batch)
        self.files.write(answers_for, table, self.fence)
        samples = int(valid.sum())
        counts = {"rows": table.num_rows, "samples": samples, "quarantined": len(valid) - samples}
        counts["retries"] = batch[schema.RETRIES].sum()
        if self.fps:
            counts |= self._longer(rows, batch, self.fps)
        for name in self.carried.names if self.carried else ():
            counts[in_column(name)] = table.num_rows - table[name].null_count
        return {name: np.array([count]) for name, count in counts.items()}

    def _longer(self, rows: pa.Table, batch: dict[str, np.ndarray], fps: float) -> dict[str, int]:
        """Count the videos that are longer than a clip, so that some of their frames have no row,
        each once; and the frames of the longest."""
        frames = _num_frames(batch[schema.LASTS_S][batch[schema.VALID]], fps)
        longer = frames > _frames_of({name: batch[name] for name in self.provenance.columns})
        first = rows[schema.CLIP].to_numpy() == 0
        return {CUT: int((longer & first).sum()), LONGEST: int(frames.max(initial=0))}

    def _table(self, rows: pa.Table, batch: dict[str, np.ndarray]) -> pa.Table:
        valid = batch[schema.VALID]
        named = (schema.START_S, schema.END_S, *self.provenance.columns)
        values = {name: batch[name][valid] for name in named}
        frames: dict[str, pa.Array] = {}
        if self.fps:
            rows, values, frame = _by_frame(rows, values, self.fps)
            frames = {schema.FRAME: pa.array(frame, pa.int32())}
        members = rows[schema.MEMBER].to_pylist()
        columns = {
            schema.SAMPLE_ID: rows[schema.SAMPLE_ID],
            schema.URI: rows[schema.URI],
            schema.MEMBER: rows[schema.MEMBER],
            schema.KEY: pa.array([key_of(name) for name in members], pa.string()),
            schema.CLIP: rows[schema.CLIP],
            # NaN becomes null
            schema.START_S: pa.array(values[schema.START_S], from_pandas=True),
            schema.END_S: pa.array(values[schema.END_S], from_pandas=True),
            **frames,
            **(self.carried.of(rows) if self.carried else {}),
        }
        for name, column in self.provenance.columns.items():
            columns[name] = _lists(values[name], column.dtype)
        if schema.DIGEST in self.schema.names:
            (only,) = self.provenance.columns.values()
            columns[schema.DIGEST] = pa.array([only.artifact_digest] * rows.num_rows, pa.string())
        return pa.table(columns, schema=self.schema)


def _by_frame(
    rows: pa.Table, values: dict[str, np.ndarray], fps: float
) -> tuple[pa.Table, dict[str, np.ndarray], np.ndarray]:
    """Make a row of every frame of clips (n, T, ...) that is on display before the video ends.

    Returns:
        The manifest's row of each, its values and times, and its number in the clip.
    """
    times = (schema.START_S, schema.END_S)
    start_s, end_s = (values[name] for name in times)
    vectors = {name: one for name, one in values.items() if name not in times}
    counts = np.minimum(_num_frames(end_s - start_s, fps), _frames_of(vectors))
    row = np.repeat(np.arange(len(counts)), counts)
    frame = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    found = {name: one[row, frame] for name, one in vectors.items()}
    found[schema.START_S] = start_s[row] + frame / fps
    found[schema.END_S] = np.minimum(found[schema.START_S] + 1 / fps, end_s[row])
    return rows.take(pa.array(row)), found, frame


def _num_frames(lasts_s: np.ndarray, fps: float) -> np.ndarray:
    """Return how many frames begin in so many seconds; a still image, shown at no time, has one."""
    shown = np.ceil(np.nan_to_num(lasts_s * fps, nan=1) - min(0.5, _ROUNDED_S * fps))
    return np.maximum(shown, 1).astype(np.int64)


def _frames_of(vectors: Mapping[str, np.ndarray]) -> int:
    """Return T of vectors (n, T, ...)."""
    return int(next(iter(vectors.values())).shape[1])


def _lists(values: np.ndarray, dtype: str) -> pa.Array:
    """Return (n, ...) values as lists of one length, flat."""
    size = int(np.prod(values.shape[1:]))
    return pa.FixedSizeListArray.from_arrays(pa.array(values.astype(dtype).reshape(-1)), size)


def in_column(name: str) -> str:
    """Name the count of rows that have something in a carried column."""
    return f"in {name}"


def key_of(member: str | None) -> str | None:
    """Return what WebDataset groups the files of a shard by: the name up to the first dot of its
    last part."""
    if member is None:
        return None
    folder, slash, name = member.rpartition("/")
    return f"{folder}{slash}{name.partition('.')[0]}"


class PartSink(Protocol):
    """Writes the parts of a stream."""

    def write(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Write the batch's part; returns one row of `COUNTS`, and what else it counts."""


def write_part(batch: dict[str, np.ndarray], sink: PartSink) -> dict[str, np.ndarray]:
    """Write one part; a function, since Ray Data takes callable objects for actors."""
    return sink.write(batch)


def write_parts(
    stream: ray.data.Dataset, sink: PartSink, part_rows: int, doing: str, num_rows: int
) -> Iterator[dict[str, int]]:
    """Write a stream of whole parts, in order.

    Args:
        stream: The stream.
        sink: Where to.
        part_rows: Rows of every part but the last.
        doing: What the stream does, for people who wait for it.
        num_rows: Of the stream.

    Yields:
        As they are written: `rows`, of so many `samples`, samples `quarantined`, and `retries`,
            storage requests tried again in reading; and what else the sink counts.
    """
    write = partial(write_part, sink=sink)
    written = map_in_tasks(stream, write, batch_size=part_rows, num_cpus=0.1)
    said_to(written, doing, num_rows)
    for batch in written.iter_batches(batch_size=None):
        parts = [
            {name: round(float(batch[name][row])) for name in batch}
            for row in range(len(batch["rows"]))
        ]
        total = Counter[str]()
        for part in parts:
            add(total, part)
        yield {name: total[name] for name in batch}


def add(counts: Counter[str], more: Mapping[str, int]) -> None:
    """Add to what parts counted; of `LONGEST` the longest remains."""
    longest = max(counts[LONGEST], more.get(LONGEST, 0))
    counts.update(more)
    if longest:
        counts[LONGEST] = longest
