"""Draws samples of a manifest by the hash of their ids: the same ones in every process, few or
many, whatever is added later."""

from collections.abc import Container

import numpy as np
import pyarrow as pa
import torch

from augment import rng
from pipelines import schema
from pipelines.corpus.manifest import Manifest

_DRAWN = "drawn"


def drawn(sample_ids: np.ndarray, what: str) -> np.ndarray:
    """Draw a number in [0, 1) for each sample.

    Args:
        sample_ids: (n,) int64.
        what: What it is for; numbers for different things are independent.

    Returns:
        (n,) float64, a function of the id and of what it is for alone.
    """
    ids = torch.tensor(sample_ids, dtype=torch.int64)
    hashed = rng.state(seed=0, epoch=torch.zeros_like(ids), sample_id=ids, view=0, op=what)
    share: np.ndarray = hashed.numpy().view(np.uint64) / 2.0**64
    return share


def lowest(
    manifest: Manifest,
    count: int,
    what: str,
    *,
    parts: Container[int] | None = None,
    below: float = 1.0,
) -> pa.Table:
    """Read the samples with the lowest numbers, those first; memory grows with their count alone.

    Of a corpus that grew, those of the older samples that are among them were so before.

    Args:
        manifest: The corpus.
        count: So many, or as many as there are.
        what: As of `drawn`.
        parts: Of the manifest, from which they are taken; None: all.
        below: Only numbers below this.

    Returns:
        Rows of the manifest with `schema.ROW`.
    """
    best: pa.Table | None = None
    limit = below
    for part, row_group, rows in manifest.row_groups():
        if not rows or (parts is not None and part not in parts):
            continue
        table = manifest.read_row_group(part, row_group)
        numbers = drawn(table[schema.SAMPLE_ID].to_numpy(), what)
        table = table.append_column(_DRAWN, pa.array(numbers)).filter(pa.array(numbers < limit))
        best = table if best is None else pa.concat_tables([best, table])
        if best.num_rows > count:
            best = best.sort_by(_DRAWN).slice(0, count).combine_chunks()
            limit = best[_DRAWN][-1].as_py()
    if best is None:
        return schema.MANIFEST.empty_table().append_column(schema.ROW, pa.array([], pa.int64()))
    return best.sort_by(_DRAWN).drop_columns([_DRAWN])
