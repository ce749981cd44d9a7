"""How well a sample's captions fit its picture: the cosine of its embedding and theirs, where both
lie in the space that images and texts share."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import torch

from models import artifact
from models.artifact import Artifact
from pipelines import schema
from pipelines.captions.caption_table import CaptionTable
from pipelines.captions.drawn_captions import Told, read_told
from pipelines.media.contract import Limits
from pipelines.pairs.files_beside import FilesBeside
from pipelines.storage import uris
from pipelines.stream.stage_times import Stopwatch

COLUMNS = (schema.URI, schema.MEMBER)
"""What of a row says where its captions are."""


@dataclass(frozen=True)
class CaptionFit:
    """What a task needs to know.

    Attributes:
        place: Where captions are.
        artifact: URI of the artifact that the embeddings were made by.
        limits: What a file may cost.
    """

    place: FilesBeside | CaptionTable
    artifact: str
    limits: Limits

    def cosines(self, rows: pa.Table, vectors: np.ndarray) -> np.ndarray:
        """Compare samples with their captions, the mean over those of one.

        Args:
            rows: The samples, with `COLUMNS`.
            vectors: Their embeddings (n, P), of length 1.

        Returns:
            (n,) float32, NaN of a sample without a caption that can be read.
        """
        told = [one if isinstance(one, tuple) else () for one in self.told(rows)]
        counts = np.array([len(texts) for texts in told], np.int64)
        found = np.full(len(told), np.nan, np.float32)
        if not counts.any():
            return found
        every = [text for texts in told for text in texts]
        owner = np.repeat(np.arange(len(told)), counts)
        of_texts = _loaded(self.artifact).embed_texts(every).numpy()
        sums = np.bincount(owner, (vectors[owner] * of_texts).sum(1), minlength=len(told))
        has = counts > 0
        found[has] = sums[has] / counts[has]
        return found

    def told(self, rows: pa.Table) -> list[Told]:
        """Read the captions of samples, with `COLUMNS`."""
        return list(read_told(self.place, iter([rows]), self.limits, Stopwatch()))


@lru_cache(maxsize=1)
def _loaded(uri: str) -> Artifact:
    """Load an artifact once a process; a task has one CPU."""
    torch.set_num_threads(1)
    uris.filesystem(uri)  # the artifact opens its URI with plain fsspec: with this client from now
    return artifact.load(uri)
