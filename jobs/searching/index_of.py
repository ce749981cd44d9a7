"""The index of stored embeddings: the one that is there, or a new one where they have changed."""

import sys
from collections.abc import Iterator

import faiss
import numpy as np

from jobs.cluster.cores import own_cores
from jobs.setup.claims import held
from jobs.setup.failures import InputError
from pipelines.embeddings import index_store
from pipelines.embeddings.stored import Stored
from pipelines.embeddings.stored_rows import digest_of
from pipelines.embeddings.vector_index import Built, Design, build
from pipelines.storage import uris

FOLDER = "index"
_MB = 1e6


def index_of(stored: Stored, folder: str | None, seed: int) -> tuple[faiss.Index, Built, bool]:
    """Open the index of these embeddings, or build and keep one.

    Args:
        stored: The embeddings.
        folder: Of the index; None: beside them.
        seed: Of the rows that it is learnt from and measured with.

    Returns:
        The index, what building it found, and whether it was built now.

    Raises:
        InputError: the folder cannot be written.
    """
    place = folder or uris.join(stored.uri.rpartition("/")[0], FOLDER)
    digest = digest_of(stored)
    if found := index_store.load(place, digest):
        return *found, False
    if problem := uris.unwritable(place):
        raise InputError(f"index {problem}: give index=FOLDER, where it is kept")
    with held("search", place, what="index") as mine:
        if found := index_store.load(place, digest):  # who held it before built it
            return *found, False
        design = Design(stored.num_rows, stored.dim, seed)
        _tell(design, stored)
        try:
            index, built = build(lambda: _batches(stored), design, num_threads=own_cores())
        except ValueError as error:
            raise InputError(f"embeddings {stored.uri}: {error}") from None
        index_store.save(place, digest, index, built, mine)
    if built.unusable:
        print(f"{built.unusable} rows are left out: not finite, or zero", file=sys.stderr)
    return index, built, True


def _batches(stored: Stored) -> Iterator[tuple[int, np.ndarray]]:
    start = 0
    for block in stored.blocks():
        yield start, block.vectors
        start += len(block.ids)


def _tell(design: Design, stored: Stored) -> None:
    """Say what will be built and what it takes."""
    learnt = f", cells learnt from {design.train_rows:,} of them" if design.train_rows else ""
    print(
        f"building an index ({design.factory()}) of {design.num_rows:,} embeddings of"
        f" {design.dim} features{learnt}, seed {design.seed}: about"
        f" {design.memory_bytes() / _MB:,.0f} MB of memory,"
        f" {design.index_bytes() / _MB:,.0f} MB in storage",
        file=sys.stderr,
    )
