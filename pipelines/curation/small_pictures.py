"""Small grey pictures of the samples that may be duplicates, with their size and a hash of their
bytes: streamed through the same decoding as everything, kept on local disk."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import ray.data

from augment.execution.geometry import reduction_for, resize_whole
from augment.picture import Picture
from pipelines import schema
from pipelines.corpus.manifest import Manifest
from pipelines.curation.alignment import SIDE
from pipelines.media.clips import Sampling
from pipelines.media.contract import Limits
from pipelines.ray_tasks import said_to
from pipelines.stream import ingest
from pipelines.stream.ingest import Ingest
from pipelines.stream.orders import ManifestOrder
from pipelines.stream.shapes import Columns, Filler

BLOCK_ROWS = 256
GREY = "grey"
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


@dataclass(frozen=True)
class Squeezed:
    """The whole of each image squeezed into a grey square, and how large its file's image is.

    Attributes:
        size: S, side of the square, px.
    """

    size: int = SIDE

    def empty(self, num_rows: int) -> Columns:
        """Allocate (B, S, S) uint8, height and width (B,) int32."""
        sides = {name: np.zeros(num_rows, np.int32) for name in (schema.HEIGHT, schema.WIDTH)}
        return {GREY: np.empty((num_rows, self.size, self.size), np.uint8)} | sides

    def filler(self, columns: Columns, epoch: np.ndarray, sample_id: np.ndarray) -> Filler:
        """Resize; nothing is drawn."""
        return _SqueezedFiller(self.size, columns)


@dataclass(frozen=True)
class _SqueezedFiller:
    size: int
    columns: Columns

    def reduction(self, row: int, height: int, width: int) -> int:
        return reduction_for(height, width, self.size)

    def fill(self, row: int, picture: Picture) -> None:
        square = np.empty((3, self.size, self.size), np.uint8)
        resize_whole(picture.pixels, square)
        grey = np.tensordot(_LUMA, square.astype(np.float32), axes=1)
        self.columns[GREY][row] = grey.round()
        self.columns[schema.HEIGHT][row] = picture.height
        self.columns[schema.WIDTH][row] = picture.width


@dataclass(frozen=True, eq=False)
class SmallPictures:
    """What is known of some samples, a row each, by ascending sample id.

    Attributes:
        ids: (n,) int64.
        grey: (n, 32, 32) uint8, on local disk.
        content: (n,) int64, hash of the file's bytes; 0: it could not be read.
        pixels: (n,) int64, of the file's image.
        nbytes: (n,) int64, of the file.
        row: (n,) int64, the place in the manifest.
    """

    ids: np.ndarray
    grey: np.ndarray
    content: np.ndarray
    pixels: np.ndarray
    nbytes: np.ndarray
    row: np.ndarray

    @classmethod
    def blank(cls, ids: np.ndarray, folder: str) -> "SmallPictures":
        """Make room for some samples, in a local folder."""
        path = os.path.join(folder, "grey")
        shape = (max(1, len(ids)), SIDE, SIDE)
        grey = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
        numbers = [np.zeros(len(ids), np.int64) for _ in range(4)]
        return cls(ids, grey, *numbers)

    @property
    def readable(self) -> np.ndarray:
        """Return which of them could be read, (n,) bool."""
        found: np.ndarray = self.pixels > 0
        return found

    def take(self, blocks: Iterator[dict[str, np.ndarray]]) -> None:
        """Fill in what a stream of `stream_of` brings."""
        for batch in blocks:
            valid = batch[schema.VALID]
            place = np.searchsorted(self.ids, batch[schema.SAMPLE_ID][valid])
            self.grey[place] = batch[GREY][valid]
            self.content[place] = batch[schema.CONTENT][valid]
            sides = (batch[name][valid].astype(np.int64) for name in (schema.HEIGHT, schema.WIDTH))
            height, width = sides
            self.pixels[place] = height * width
            self.nbytes[place] = batch[schema.LENGTH][valid]
            self.row[place] = batch[schema.ROW][valid]


def stream_of(manifest: Manifest, limits: Limits, run: str) -> ray.data.Dataset:
    """Stream the small pictures of all samples of a version; of videos, the frame in the middle of
    each clip."""
    work = Ingest(
        order=ManifestOrder(manifest),
        shape=Squeezed(),
        block_rows=BLOCK_ROWS,
        limits=limits,
        quarantine=None,
        run=run,
        sampling=Sampling(per_video=manifest.per_video, as_frames=True),
        content=True,
        carried=((schema.LENGTH, 8),),
    )
    blocks = ingest.dataset(work, [(0, manifest.num_rows)])
    said_to(blocks, "looking at samples that may be duplicates", manifest.num_rows)
    return blocks
