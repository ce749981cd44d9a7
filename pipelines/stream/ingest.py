"""The dataset factory: plan items -> fetch -> decode -> crops, streamed by Ray Data as fixed-shape
uint8 blocks.

One block is one rank's micro-batch and blocks come in plan order, so Ray deals global batch s to
the ranks of step s.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, repeat, tee
from typing import Any, cast

import numpy as np
import pyarrow as pa
import ray.data

from pipelines import schema
from pipelines.captions.drawn_captions import Captions, Told
from pipelines.media.clips import Sampling
from pipelines.media.contract import REASONS, BadSample, Limits
from pipelines.media.decoder import PROCESS, kept_decoder
from pipelines.pairs.second_images import SecondImages
from pipelines.samples.picture_rows import Boxes, PictureRows, classes_of, numbers_of
from pipelines.samples.rows_of_numbers import NumberFiller, Series, SeriesRows
from pipelines.stream import quarantine, stage_times
from pipelines.stream.orders import Order
from pipelines.stream.payload import Payload, content_of, payloads
from pipelines.stream.sealed import Deal, SealedStream
from pipelines.stream.shapes import Columns, Filler, Shape

_MOTION_BYTES = 6 * 4  # of a row of `schema.MOTION`

MIDDLE_FRAME = Sampling()


@dataclass(frozen=True)
class Ingest:
    """What a decode task needs to know.

    Attributes:
        order: Positions to samples.
        shape: Decoded images to columns.
        block_rows: Rows of every block but the last.
        limits: What exceeds them is quarantined undecoded.
        quarantine: Folder of the quarantine table; None: bad samples are only marked.
        run: Name of the run, for the quarantine table.
        sampling: What is taken of videos; the default is the frame in the middle.
        decoder: Module of the process that decodes what may do harm.
        verify: Whether content is checked against the manifest's etag.
        content: Whether a column of hashes of the files' bytes is added.
        carried: Columns of the order's rows that blocks have as well, and the bytes a row of each.
        masks: Whether the order's rows name masks, which the shape crops with their images.
        mask_values: The value of each class in the files of masks, all others being none; empty:
            the values are the classes.
        boxes: Whether the order's rows hold boxes; they follow the crops of a shape that has a
            column for them.
        pair: Where the rows' second images are, which the shape crops with their images; None:
            nowhere.
        captions: Where the rows' captions are; None: nowhere.
        series: How samples are read that are rows of numbers, which the shape then takes; None:
            they are pictures.
    """

    order: Order
    shape: Shape
    block_rows: int
    limits: Limits
    quarantine: str | None
    run: str
    sampling: Sampling = MIDDLE_FRAME
    decoder: str = PROCESS
    verify: bool = False
    content: bool = False
    carried: tuple[tuple[str, int], ...] = ()
    masks: bool = False
    mask_values: tuple[int, ...] = ()
    boxes: bool = False
    pair: SecondImages | None = None
    captions: Captions | None = None
    series: Series | None = None

    def row_bytes(self) -> int:
        """Return the bytes of one row of a block."""
        keys = 8 + 8 + 8 + 8 + 1 + 1 + 8 * self.content + stage_times.row_bytes()
        keys += sum(nbytes for _, nbytes in self.carried)
        keys += _MOTION_BYTES * len(self.pair.named) if self.pair else 0
        keys += 4 * self.captions.length if self.captions else 0
        return keys + sum(column.nbytes for column in self.shape.empty(1).values())

    def item_rows(self) -> int:
        """Return the rows of a plan item: whole blocks, as many as one task makes."""
        return Deal(self.block_rows).item_rows(self.row_bytes())

    def stream(self) -> SealedStream:
        """Return the stream without what its tasks work with."""
        return SealedStream.of(partial(_task, ingest=self), self.row_bytes())


def dataset(ingest: Ingest, ranges: Sequence[tuple[int, int]]) -> ray.data.Dataset:
    """Build the lazy stream of blocks for ranges of positions, in order.

    Args:
        ingest: The work.
        ranges: Half-open ranges of positions, at least one. Each is cut into plan items of
            `ingest.item_rows()` rows, one task each.

    Returns:
        A dataset of `sample_id, row, epoch, position, valid, reason`, the shape's columns and those
        of `stats`, `block_rows` rows a block.
    """
    return ingest.stream().dataset(ranges, Deal(ingest.block_rows))


def _task(items: pa.Table, deal: Deal, *, ingest: Ingest) -> Iterator[Columns]:
    _compute_on_one_thread()
    yield from run_items(items, ingest=replace(ingest, block_rows=deal.rows), deal=deal)


def _compute_on_one_thread() -> None:
    """Leave the parallelism to Ray: one task a logical CPU. Most tasks never import torch; where
    one does later, torch goes by the variable."""
    os.environ["OMP_NUM_THREADS"] = "1"
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def run_items(items: pa.Table, *, ingest: Ingest, deal: Deal | None = None) -> Iterator[Columns]:
    """Fetch, decode and crop the samples of plan items; bytes of the next block are on their way
    meanwhile.

    Args:
        items: Positions, `start` to `stop`.
        ingest: The work.
        deal: Which of them a block holds; None: `block_rows` in their order.
    """
    deal = deal or Deal(ingest.block_rows)
    for item in items.to_pylist():
        bad: list[dict[str, Any]] = []
        blocks = deal.blocks(ingest.order.rows(item["start"], item["stop"]))
        clock = stage_times.Stopwatch()
        ours, theirs, of_masks, of_pairs, of_captions = tee(blocks, 5)
        fetched = payloads(theirs, ingest.limits, clock, verify=ingest.verify)
        masks: Iterator[Payload] | None = None
        if ingest.masks:
            masks = payloads(map(_mask_rows, of_masks), ingest.limits, clock)
        else:
            del of_masks  # or it would hold every block
        seconds: Iterator[Payload] | None = None
        if ingest.pair:
            seconds = ingest.pair.payloads(of_pairs, ingest.limits, clock)
        else:
            del of_pairs
        texts: Iterator[Told] | None = None
        if ingest.captions:
            texts = ingest.captions.told(of_captions, ingest.limits, clock)
        else:
            del of_captions
        for rows in ours:
            known = len(bad)
            found = zip(
                islice(fetched, rows.num_rows),
                islice(masks, rows.num_rows) if masks else repeat(None, rows.num_rows),
                islice(seconds, rows.num_rows) if seconds else repeat(None, rows.num_rows),
                strict=True,
            )
            told = list(islice(texts, rows.num_rows)) if texts else []
            columns = _block(rows, found, told, ingest, bad, clock)
            if len(bad) > known and ingest.quarantine is not None:
                # Before the block is handed on: once its step is committed, nobody looks at these
                # samples again.
                quarantine.write(ingest.quarantine, f"{item['start']:015d}", bad[known:])
            yield columns | clock.columns(rows.num_rows)


def item_blocks(ingest: Ingest, start: int, stop: int) -> Iterator[pa.Table]:
    """Yield the rows of a plan item, a block at a time."""
    return Deal(ingest.block_rows).blocks(ingest.order.rows(start, stop))


def _block(
    rows: pa.Table,
    found: Iterable[tuple[Payload, Payload | None, Payload | None]],
    told: Sequence[Told],
    ingest: Ingest,
    bad: list[dict[str, Any]],
    clock: stage_times.Stopwatch,
) -> Columns:
    """Decode one block; a bad row stays in place with `valid` False and a neighbour's pixels, so
    that shapes and batch statistics hold while the loss leaves it out."""
    epoch, sample_id = (rows[name].to_numpy() for name in (schema.EPOCH, schema.SAMPLE_ID))
    columns = ingest.shape.empty(rows.num_rows)
    filler = ingest.shape.filler(columns, epoch, sample_id)
    reason = np.zeros(rows.num_rows, np.uint8)
    content = np.zeros(rows.num_rows, np.int64)
    if ingest.captions:
        columns[schema.CAPTION] = ingest.captions.tokens(told, epoch, sample_id)

    fill, wanted = _row_filler(rows, columns, filler, ingest, clock)
    for index, ((payload, mask, other), one) in enumerate(zip(found, wanted, strict=True)):
        stage = "fetch" if isinstance(payload, BadSample) else "decode"
        try:
            if ingest.content:
                content[index] = content_of(payload)
            if told and isinstance(problem := told[index], BadSample):
                raise problem  # before its picture is decoded
            fill(index, payload, one, mask, other)
        except BadSample as problem:
            reason[index] = 1 + REASONS.index(problem.reason)
            row = rows.slice(index, 1).to_pylist()[0]
            bad.append(
                quarantine.bad_row(
                    row, problem, stage=stage, epoch=int(epoch[index]), run=ingest.run
                )
            )
    valid = reason == 0
    columns = _with_neighbours(columns, valid, ingest.block_rows)
    keys = {schema.SAMPLE_ID: sample_id, schema.EPOCH: epoch}
    keys |= {name: rows[name].to_numpy() for name in (schema.ROW, schema.POSITION)}
    if ingest.content:
        keys[schema.CONTENT] = content
    keys |= {name: numbers_of(rows[name]) for name, _ in ingest.carried}
    if ingest.pair:
        keys |= ingest.pair.columns(rows)
    return keys | {schema.VALID: valid, schema.REASON: reason} | columns


def _row_filler(
    rows: pa.Table,
    columns: Columns,
    filler: Filler,
    ingest: Ingest,
    clock: stage_times.Stopwatch,
) -> tuple[Callable[..., None], Sequence[Any]]:
    """Return what fills a row of a block from its file, and what it takes of each."""
    decoder = kept_decoder(ingest.limits, ingest.decoder)
    if ingest.series is not None:
        numbers = SeriesRows(cast(NumberFiller, filler), ingest.series, decoder, clock)
        return numbers.fill, ingest.series.wanted(rows)
    pictures = PictureRows(
        filler,
        decoder,
        clock,
        classes=classes_of(ingest.mask_values),
        boxes=Boxes.of(rows) if ingest.boxes else None,
        pair=ingest.pair,
        as_image=ingest.sampling.as_frames,
        fills_boxes=schema.BOXES in columns,
    )
    return pictures.fill, ingest.sampling.clips(rows)


def _with_neighbours(columns: Columns, valid: np.ndarray, batch: int) -> Columns:
    """Give rows that could not be filled what the one before them in their batch has, or the one
    after; zeros where nothing of a batch could be."""
    if valid.all():
        return columns
    neighbour = np.arange(len(valid))
    empty = np.zeros(len(valid), bool)
    for start in range(0, len(valid), batch):
        within = valid[start : start + batch]
        good = np.flatnonzero(within)
        if not len(good):
            empty[start : start + batch] = True
            continue
        before = np.searchsorted(good, np.arange(len(within)), side="right") - 1
        neighbour[start : start + batch] = start + good[np.maximum(before, 0)]
    filled = {name: column[neighbour] for name, column in columns.items()}
    for column in filled.values():
        column[empty] = 0
    return filled


def _mask_rows(rows: pa.Table) -> pa.Table:
    """Address the masks of rows as though they were samples."""
    count = rows.num_rows
    return pa.table(
        {
            schema.URI: rows[schema.MASK_URI],
            schema.OFFSET: rows[schema.MASK_OFFSET],
            schema.LENGTH: rows[schema.MASK_LENGTH],
            schema.MEMBER: pa.nulls(count, pa.string()),
            "etag": pa.array([""] * count, pa.string()),
            schema.MEDIA: pa.array(["image"] * count, pa.string()),
        }
    )
