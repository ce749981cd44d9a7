"""Samples of a corpus that a labelled set has too: of the same bytes, or nearly the same picture.

Pictures are compared by their perceptual hash of 256 bits (ImageHash's pHash: the signs of low
frequencies), upright and mirrored. Another JPEG quality or size changes a few bits: 4 in the median
and 26 in 90 % of aerial images saved at quality 30; none of a million pairs of different ones
differed in less than 33. A picture that is cut by more than a few pixels, or shrunk below some 40,
may be missed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial

import faiss
import numpy as np
import pyarrow as pa
from PIL import Image

from pipelines import schema
from pipelines.media.clips import Sampling
from pipelines.media.contract import Limits
from pipelines.ray_tasks import map_in_tasks, said_to
from pipelines.stream import ingest
from pipelines.stream.ingest import Ingest
from pipelines.stream.orders import Order
from pipelines.stream.sealed import seal
from pipelines.stream.shapes import Centre

SIDE = 64  # px of the square that is hashed; 16 x 16 low frequencies are left of it
HASH_SIDE = 16
NUM_BITS = HASH_SIDE**2
BLOCK_ROWS = 256
HASH = "hash"
EXACT = -1  # in place of a distance
MATCHES = pa.schema(
    [
        pa.field("wanted", pa.int64()),  # index among the samples looked for
        pa.field(schema.POSITION, pa.int64()),  # in the corpus
        pa.field("distance", pa.int64()),  # bits; EXACT: of the same bytes
    ]
)


@dataclass(frozen=True)
class Fingerprints:
    """What tells pictures from each other.

    Attributes:
        content: (N,) int64 hashes of the files' bytes; 0: unreadable.
        upright: (N, 32) uint8 perceptual hashes.
        mirrored: (N, 32) uint8, of the mirrored pictures.
    """

    content: np.ndarray
    upright: np.ndarray
    mirrored: np.ndarray


def work_of(order: Order, limits: Limits, sampling: Sampling, run: str) -> Ingest:
    """Say how pictures are streamed to be compared: small, with hashes of their bytes."""
    return Ingest(
        order=order,
        shape=Centre(SIDE),
        block_rows=BLOCK_ROWS,
        limits=limits,
        quarantine=None,
        run=run,
        sampling=sampling,
        content=True,
    )


def fingerprints(work: Ingest, num_rows: int) -> Fingerprints:
    """Hash all samples of a labelled set; memory grows with it."""
    blocks = ingest.dataset(work, [(0, num_rows)])
    hashed = map_in_tasks(blocks, seal(_hash_block), batch_size=None)
    said_to(hashed, "hashing labelled samples", num_rows)
    content = np.zeros(num_rows, np.int64)
    hashes = np.zeros((2, num_rows, NUM_BITS // 8), np.uint8)
    for batch in hashed.iter_batches(batch_size=None):
        place = batch[schema.POSITION]
        content[place] = batch[schema.CONTENT]
        hashes[0, place] = batch[HASH]
        hashes[1, place] = batch[f"{HASH}_mirrored"]
    return Fingerprints(content, hashes[0], hashes[1])


def _hash_block(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    images = batch[schema.IMAGE]
    valid = batch[schema.VALID]
    return {
        schema.POSITION: batch[schema.POSITION],
        schema.CONTENT: np.where(valid, batch[schema.CONTENT], 0),
        HASH: perceptual_hashes(images),
        f"{HASH}_mirrored": perceptual_hashes(images[..., ::-1]),
    }


def perceptual_hashes(images: np.ndarray) -> np.ndarray:
    """Hash pictures.

    Args:
        images: (B, 3, S, S) uint8.

    Returns:
        (B, 32) uint8, the bits of each.
    """
    import imagehash  # here, as only this needs its transforms

    bits = np.zeros((len(images), NUM_BITS), bool)
    for index, image in enumerate(images):
        picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
        bits[index] = imagehash.phash(picture, hash_size=HASH_SIDE).hash.reshape(-1)
    return np.packbits(bits, axis=1)


def matches(
    work: Ingest, num_rows: int, wanted: Fingerprints, max_distance: int
) -> Iterator[tuple[int, pa.Table]]:
    """Stream a corpus past the samples looked for; nothing of it is held.

    Args:
        work: Of the corpus, by `work_of`.
        num_rows: Of the corpus.
        wanted: The samples looked for.
        max_distance: Bits in which near ones differ at most.

    Yields:
        Samples seen that could be read, and matches among them, schema `MATCHES`.
    """
    blocks = ingest.dataset(work, [(0, num_rows)])
    compare = partial(_compare, wanted=wanted, max_distance=max_distance)
    found = map_in_tasks(blocks, seal(compare), batch_size=None)
    said_to(found, "comparing with the corpus", num_rows)
    for batch in found.iter_batches(batch_size=None):
        real = batch["wanted"] >= 0
        table = pa.table({name: batch[name][real] for name in MATCHES.names}, schema=MATCHES)
        yield int(batch["distance"][~real].sum()), table


def _compare(
    batch: dict[str, np.ndarray], *, wanted: Fingerprints, max_distance: int
) -> dict[str, np.ndarray]:
    """Find the matches of one block; a row of `wanted` -1 counts the samples that could be read."""
    valid = batch[schema.VALID]
    content = batch[schema.CONTENT][valid]
    place = batch[schema.POSITION][valid]
    rows = [(np.array([-1]), np.array([-1]), np.array([int(valid.sum())]))]
    if len(content):
        same = np.flatnonzero(np.isin(content, wanted.content[wanted.content != 0]))
        for one in same:
            which = np.flatnonzero(wanted.content == content[one])
            rows.append((which, np.full_like(which, place[one]), np.full_like(which, EXACT)))
        rows += _near(batch[schema.IMAGE][valid], place, wanted, max_distance)
    columns = [np.concatenate([row[column] for row in rows]) for column in range(3)]
    # A pair counts once, by its least distance: of the same bytes, upright, mirrored.
    order = np.lexsort((columns[2], columns[1], columns[0]))
    pairs = np.stack([columns[0], columns[1]])[:, order]
    first = np.r_[True, (pairs[:, 1:] != pairs[:, :-1]).any(0)]
    return {name: column[order][first] for name, column in zip(MATCHES.names, columns, strict=True)}


def _near(
    images: np.ndarray, place: np.ndarray, wanted: Fingerprints, max_distance: int
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    usable = np.flatnonzero(wanted.content != 0)
    if not len(usable):
        return []
    index = _index(wanted.upright[usable].tobytes(), wanted.mirrored[usable].tobytes())
    limits, distance, which = index.range_search(perceptual_hashes(images), max_distance + 1)
    ends = np.asarray(limits, dtype=np.int64)
    query = np.repeat(np.arange(len(images)), ends[1:] - ends[:-1])
    return [(usable[which % len(usable)], place[query], distance.astype(np.int64))]


@lru_cache(maxsize=1)
def _index(upright: bytes, mirrored: bytes) -> faiss.IndexBinaryFlat:
    index = faiss.IndexBinaryFlat(NUM_BITS)
    index.add(np.frombuffer(upright + mirrored, np.uint8).reshape(-1, NUM_BITS // 8))
    return index


def read_order(order: Order, positions: np.ndarray) -> list[dict[str, object]]:
    """Return the manifest rows of a few positions."""
    rows = [next(iter(order.rows(int(at), int(at) + 1))) for at in positions]
    return [row.select([schema.URI, schema.MEMBER]).to_pylist()[0] for row in rows]
