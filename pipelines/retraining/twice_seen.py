"""Embeds a few samples of a corpus, each as it is and slightly changed."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from augment.ops import ColorJitter
from augment.recipe import CropGroup, Views
from pipelines import schema
from pipelines.embeddings.features import Extractor, Features
from pipelines.media.clips import Sampling
from pipelines.media.contract import Limits
from pipelines.ray_tasks import Placed, map_in_networks, said_to
from pipelines.stream import ingest
from pipelines.stream.first_samples import ORIGINAL, FirstSamples, WithOriginal
from pipelines.stream.orders import keyed
from pipelines.stream.shapes import Crops, of_media

BLOCK_ROWS = 64
_CHANGED = "changed"
_SEED = 0  # the same changes for every encoder and in every cycle
# What leaves a picture the same to people: half of it at least, and slightly other colours.
_SLIGHTLY = CropGroup(
    scale=(0.5, 1.0),
    color_jitter=ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05),
)


@dataclass(frozen=True)
class Looking:
    """Which encoder looks.

    Attributes:
        artifact: Its URI.
        size: Side of the images that it takes, px.
        sampling: What it sees of videos.
        placed: Where the actors run.
    """

    artifact: str
    size: int
    sampling: Sampling
    placed: Placed

    @property
    def num_frames(self) -> int | None:
        """Return the frames of a sample; None: it is an image."""
        return None if self.sampling.as_frames else self.sampling.num_frames


class EmbedTwice:
    """An actor's encoder; takes blocks with originals and views, gives back the embeddings."""

    def __init__(self, looking: Looking) -> None:
        torch.set_num_threads(looking.placed.threads)
        self._device = torch.device(looking.placed.device)
        self._size = looking.size
        features = {schema.EMBEDDING: Features(looking.artifact)}
        self._extract = Extractor(features, self._device)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Embed one block."""
        kept = (schema.SAMPLE_ID, schema.POSITION, schema.VALID, schema.REASON)
        return {name: batch[name] for name in kept} | {
            schema.EMBEDDING: self._embedded(batch[ORIGINAL]),
            _CHANGED: self._embedded(batch[_CHANGED][:, 0]),
        }

    def _embedded(self, images: np.ndarray) -> np.ndarray:
        given = {self._size: torch.from_numpy(np.array(images)).to(self._device)}
        values: np.ndarray = self._extract(given)[schema.EMBEDDING].cpu().numpy()
        return values


@dataclass(frozen=True, eq=False)
class Seen:
    """What was seen of N samples, in the order in which they were given.

    Attributes:
        valid: (N,) bool, whether each could be read.
        reason: (N,) uint8, why not: `schema.REASON`.
        plain: Embeddings (N, D) float32; of what could not be read, of something else.
        changed: Of the changed views, (N, D).
    """

    valid: np.ndarray
    reason: np.ndarray
    plain: np.ndarray
    changed: np.ndarray


def see_twice(rows: pa.Table, looking: Looking, limits: Limits, *, num_actors: int) -> Seen:
    """Embed samples with one encoder, as they are and slightly changed.

    Args:
        rows: Of a manifest, with `schema.ROW`; at least one.
        looking: The encoder.
        limits: How its images are read, and what they may cost.
        num_actors: Size of the pool.
    """
    views = Views(size=looking.size, placement="decode", groups={_CHANGED: _SLIGHTLY})
    crops = Crops(views, _SEED, photometric=True)
    work = ingest.Ingest(
        order=FirstSamples(keyed(rows, epoch=0, start=0)),
        shape=of_media(WithOriginal(crops, looking.size), looking.num_frames),
        block_rows=BLOCK_ROWS,
        limits=limits,
        quarantine=None,
        run="retrain",
        sampling=looking.sampling,
    )
    images = ingest.dataset(work, [(0, rows.num_rows)])
    stream = map_in_networks(
        images,
        EmbedTwice,
        looking,
        looking.placed,
        block_rows=BLOCK_ROWS,
        num_actors=num_actors,
    )
    stream = said_to(stream, "looking at samples", rows.num_rows)
    batches = list(stream.iter_batches(batch_size=None))
    order = np.argsort(np.concatenate([batch[schema.POSITION] for batch in batches]))
    columns = (schema.VALID, schema.REASON, schema.EMBEDDING, _CHANGED)
    valid, reason, plain, changed = (
        np.concatenate([batch[name] for batch in batches])[order] for name in columns
    )
    return Seen(valid, reason, plain, changed)
