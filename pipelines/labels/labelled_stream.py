"""Streams the pixels of labelled samples with their targets: the project's own stream, with labels
in its batches."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import ray.data

from pipelines import schema
from pipelines.corpus.listed_rows import LEFT_OUT, per_clip
from pipelines.labels.labelled_data import LabelledData
from pipelines.media.clips import Sampling
from pipelines.media.contract import Limits
from pipelines.ray_tasks import said_to
from pipelines.samples.rows_of_numbers import Series
from pipelines.stream import ingest
from pipelines.stream.ingest import MIDDLE_FRAME, Ingest
from pipelines.stream.orders import keyed
from pipelines.stream.shapes import Shape

BLOCK_ROWS = 256


@dataclass(frozen=True, eq=False)
class LabelledOrder:
    """Labelled samples held in memory, each clip of a video a position.

    Attributes:
        table: Manifest rows with `schema.ROW`, the sample's index in `LabelledData.rows`, and their
            targets.
        seed: None: each once, as they lie. Else endless epochs, each a permutation: what training
            takes, and a position says how far it is.
    """

    table: pa.Table
    seed: int | None = None

    def rows(self, start: int, stop: int) -> Iterator[pa.Table]:
        """Yield the samples of positions [start, stop), in order."""
        size = self.table.num_rows
        if self.seed is None:
            yield keyed(self.table.slice(start, stop - start), epoch=0, start=start)
            return
        while start < stop:
            epoch, first = divmod(start, size)
            last = min(size, first + stop - start)
            chosen = pa.array(_permutation(size, self.seed, epoch)[first:last])
            yield keyed(self.table.take(chosen), epoch=epoch, start=start)
            start += last - first


@lru_cache(maxsize=4)
def _permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(size)


def work_of(
    data: LabelledData,
    shape: Shape,
    limits: Limits,
    *,
    run: str,
    block_rows: int = BLOCK_ROWS,
    sampling: Sampling = MIDDLE_FRAME,
    seed: int | None = None,
    quarantine: str | None = None,
    content: bool = False,
    series: Series | None = None,
) -> Ingest:
    """Say how labelled samples are streamed.

    A batch holds what every stream does; `schema.ROW` is the sample's index in `data.rows`. Beside
    it stand the targets: of task `class` the column `label`, (B,) int64; of `classes`
    `label_hot`, (B, C) uint8; of `mask` `mask`, (B, S, S) uint8, classes or `IGNORE`, where the
    shape makes masks; of
    `boxes` `boxes`, (B, M, 5) float32, where it crops them. Those of the file are
    `data.boxes(row)`.

    Args:
        data: The samples, perhaps those of one split: `data.keep(data.of("train"))`.
        shape: Decoded images to columns: `Centre` and `Fitted` make masks too where told so.
        limits: What exceeds them is quarantined undecoded.
        run: Name for the quarantine table.
        block_rows: Rows of every block but the last.
        sampling: What is taken of videos; its `per_video` clips of one follow each other.
        seed: Of endless permuted epochs; None: each sample once.
        quarantine: Folder of the quarantine table; None: bad samples are only marked.
        content: Whether a column of hashes of the files' bytes is added.
        series: How samples are read that are no pictures; None: they are.
    """
    return Ingest(
        order=order_of(data, sampling.per_video, seed),
        shape=shape,
        block_rows=block_rows,
        limits=limits,
        quarantine=quarantine,
        run=run,
        sampling=sampling,
        content=content,
        carried=carried_by(data),
        masks=data.task == "mask" and schema.MASK in shape.empty(1),
        mask_values=data.values,
        boxes=data.task == "boxes",
        series=series,
    )


def order_of(data: LabelledData, per_video: int, seed: int | None = None) -> LabelledOrder:
    """Order labelled samples, so many clips of each video; endlessly where a seed is given."""
    return LabelledOrder(_with_targets(data, per_video), seed)


def carried_by(data: LabelledData) -> tuple[tuple[str, int], ...]:
    """Return the columns of an order that blocks have as well, and the bytes a row of each."""
    of_task = {"class": ((schema.LABEL, 8),), "classes": ((schema.LABEL_HOT, data.num_classes),)}
    return of_task.get(data.task, ())


def blocks(work: Ingest) -> ray.data.Dataset:
    """Stream every sample once, in order.

    Args:
        work: Of `work_of`, without a seed.
    """
    assert isinstance(work.order, LabelledOrder) and work.order.seed is None
    rows = work.order.table.num_rows
    return said_to(ingest.dataset(work, [(0, rows)]), "reading labelled samples", rows)


def manifest_rows(data: LabelledData) -> pa.Table:
    """Return the rows of samples without targets, for a `LabelledOrder`."""
    table = data.rows.select(schema.MANIFEST.names)
    return table.append_column(schema.ROW, pa.array(np.arange(data.num_rows)))


def _with_targets(data: LabelledData, per_video: int) -> pa.Table:
    table = manifest_rows(data)
    if data.task == "mask":
        for name in (schema.MASK_URI, schema.MASK_OFFSET, schema.MASK_LENGTH):
            table = table.append_column(name, data.rows[name])
    elif data.task == "class":
        table = table.append_column(schema.LABEL, pa.array(data.labels))
    elif data.task == "classes":
        values = pa.array(data.label_hot.astype(np.uint8).reshape(-1))
        hot = pa.FixedSizeListArray.from_arrays(values, data.num_classes)
        table = table.append_column(schema.LABEL_HOT, hot)
    elif data.task == "boxes":
        values = pa.array(_padded_boxes(data).reshape(-1))
        boxes = pa.FixedSizeListArray.from_arrays(values, 5 * data.most_boxes)
        for name in (schema.HEIGHT, schema.WIDTH):
            table = table.append_column(name, data.rows[name])
        table = table.append_column(schema.BOXES, boxes)
    table = table.append_column(LEFT_OUT, pa.nulls(data.num_rows, pa.string()))
    return per_clip(table, per_video=per_video).drop_columns([LEFT_OUT.name])


def _padded_boxes(data: LabelledData) -> np.ndarray:
    """Return the boxes of single objects, (N, M, 5): x, y, width, height, class; class -1 where a
    sample has fewer."""
    padded = np.zeros((data.num_rows, data.most_boxes, 5), np.float32)
    padded[..., 4] = -1
    for row in range(data.num_rows):
        sides, labels, crowd = data.boxes(row)
        count = int((~crowd).sum())
        padded[row, :count, :4] = sides[~crowd]
        padded[row, :count, 4] = labels[~crowd]
    return padded
