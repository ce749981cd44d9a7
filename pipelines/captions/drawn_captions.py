"""Captions of samples: found in files beside them or in a table, drawn by key, turned into
tokens."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from augment.column_draws import uniform
from models.texts.tokenizer import encode
from pipelines import schema
from pipelines.captions.caption_table import CaptionTable
from pipelines.captions.caption_text import read_captions
from pipelines.media.contract import BadSample, Limits
from pipelines.pairs.files_beside import FilesBeside
from pipelines.stream.payload import Payload
from pipelines.stream.stage_times import Stopwatch

Told = tuple[str, ...] | BadSample
"""The captions of a sample, at least one, or why there is none."""


def read_told(
    place: FilesBeside | CaptionTable,
    blocks: Iterator[pa.Table],
    limits: Limits,
    clock: Stopwatch,
) -> Iterator[Told]:
    """Yield the captions of each row of blocks of manifest rows, in order.

    Args:
        place: Where they are: in files of their own, or in a table.
        blocks: The rows.
        limits: What a file may cost.
        clock: Takes the time.
    """
    if isinstance(place, CaptionTable):
        for rows in blocks:
            members = rows[schema.MEMBER].to_pylist()
            for uri, member in zip(rows[schema.URI].to_pylist(), members, strict=True):
                yield _looked_up(place, uri, member)
        return
    for payload in place.payloads(blocks, limits, clock, _missing):
        yield _read(payload, place.rule)


@dataclass(frozen=True)
class Captions:
    """What a decode task needs to know of captions.

    Attributes:
        place: Where they are.
        tokenizer: As `models.texts.tokenizer.learn` returned it.
        length: L, tokens of a caption.
        seed: Of the draw among several captions of a sample.
    """

    place: FilesBeside | CaptionTable
    tokenizer: str
    length: int
    seed: int

    def told(self, blocks: Iterator[pa.Table], limits: Limits, clock: Stopwatch) -> Iterator[Told]:
        """Yield the captions of each row of blocks, in order."""
        return read_told(self.place, blocks, limits, clock)

    def tokens(self, told: Sequence[Told], epoch: np.ndarray, sample_id: np.ndarray) -> np.ndarray:
        """Draw a caption of each sample by its key, and turn it into tokens.

        Args:
            told: B, of which those without a caption get no tokens.
            epoch: (B,) int64.
            sample_id: (B,) int64.

        Returns:
            (B, L) int32.
        """
        draws = uniform(1, seed=self.seed, epoch=epoch, sample_id=sample_id, view=0, op="caption")[
            :, 0
        ].tolist()
        chosen = [
            "" if isinstance(texts, BadSample) else texts[int(draw * len(texts))]
            for texts, draw in zip(told, draws, strict=True)
        ]
        return encode(self.tokenizer, chosen, self.length)


def _looked_up(table: CaptionTable, uri: str, member: str | None) -> Told:
    try:
        return table.of(uri, member)
    except BadSample as problem:
        return problem


def _read(payload: Payload, rule: str) -> Told:
    if isinstance(payload, BadSample):
        return payload if payload.reason == "caption" else BadSample("caption", str(payload))
    assert isinstance(payload, bytes)
    try:
        return read_captions(payload, rule)
    except BadSample as problem:
        return problem


def _missing(sought: str) -> BadSample:
    return BadSample("caption", f"no caption {sought}, or an empty one: check source.captions")
