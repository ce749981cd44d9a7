"""Embeds streams of centre crops with frozen encoders, in a pool of Ray Data actors."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import ray.data
import torch
from torch import Tensor

from pipelines import schema
from pipelines.embeddings.clip_means import means
from pipelines.embeddings.features import Extractor, Features, finished
from pipelines.ray_tasks import Placed, map_in_networks
from pipelines.stream.shapes import Centre, Centres, Shape, of_media

BLOCK_ROWS = 256
BLOCK_BYTES = 256 << 20  # of pixels; 256 images of 224 px are 37 MiB, as many clips gigabytes
MOST_IMAGES = BLOCK_ROWS  # that an encoder is given at once, the frames of clips counted


@dataclass(frozen=True)
class Encoders:
    """Which features to take of each image, in one pass over the pixels.

    Attributes:
        columns: Column name to what it holds; of one artifact or several.
        placed: Where the actors run.
        each_frame: Of clips (B, T, 3, S, S), whether each frame's features are given, (B, T, ...);
            else their mean.
    """

    columns: Mapping[str, Features]
    placed: Placed
    each_frame: bool = False


class Embed:
    """An actor's encoders; takes blocks with images, gives them back with embeddings in their
    place."""

    def __init__(self, encoders: Encoders) -> None:
        torch.set_num_threads(encoders.placed.threads)
        self._device = torch.device(encoders.placed.device)
        self._extract = Extractor(encoders.columns, self._device)
        self._columns = encoders.columns
        self._each_frame = encoders.each_frame

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Embed one block."""
        images = {size: self._images(batch, size) for size in self._extract.sizes}
        features = embedded(self._extract, images, self._columns, each_frame=self._each_frame)
        return batch | {name: values.cpu().numpy() for name, values in features.items()}

    def _images(self, batch: dict[str, np.ndarray], size: int) -> Tensor:
        """Take the images (B, 3, S, S) or clips (B, T, 3, S, S) of a size out of a block."""
        named = schema.image_at(size)
        column = batch.pop(named if named in batch else schema.IMAGE)
        return torch.from_numpy(np.array(column)).to(self._device)


def embedded(
    extract: Extractor,
    images: Mapping[int, Tensor],
    columns: Mapping[str, Features],
    *,
    each_frame: bool = False,
) -> dict[str, Tensor]:
    """Embed images, or clips: whole where the encoders take them so, else frame by frame.

    Args:
        extract: The encoders.
        images: Side to (B, 3, S, S) or (B, T, 3, S, S), of each of the encoders' sizes.
        columns: What `extract` computes.
        each_frame: Whether each frame's features are given, (B, T, ...), and not their mean.
    """
    frames = next(iter(images.values())).shape[1:-3]  # (T,) of clips, () of images
    if not frames or extract.sees_clips:
        return _some_at_a_time(extract, images, max(1, MOST_IMAGES // math.prod(frames)))
    flat = {size: clips.flatten(0, 1) for size, clips in images.items()}
    of_frames = _some_at_a_time(extract, flat, MOST_IMAGES)
    found = {name: values.unflatten(0, (-1, *frames)) for name, values in of_frames.items()}
    if each_frame:
        return found
    return {name: finished(one.float().mean(1), columns[name]) for name, one in found.items()}


def _some_at_a_time(
    extract: Extractor, images: Mapping[int, Tensor], most: int
) -> dict[str, Tensor]:
    count = len(next(iter(images.values())))
    chunks = [
        extract({size: one[start : start + most] for size, one in images.items()})
        for start in range(0, count, most)
    ]
    if len(chunks) == 1:
        return chunks[0]
    return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}


def block_rows(shape: Shape, part_rows: int) -> int:
    """Return the rows of a block: a power of two, so few that blocks of clips are no larger than
    `BLOCK_BYTES`, and whole blocks make a part.

    Args:
        shape: Of the stream.
        part_rows: Of the part.
    """
    row_bytes = sum(column.nbytes for column in shape.empty(1).values())
    fitting = min(BLOCK_ROWS, max(1, BLOCK_BYTES // row_bytes))
    return math.gcd(1 << (fitting.bit_length() - 1), part_rows)


def shape_for(sizes: Sequence[int], *, times: bool = False, num_frames: int | None = None) -> Shape:
    """Return what the stream must make of images for encoders that take these sizes.

    Args:
        sizes: `image_size` of each artifact.
        times: Whether columns say when the frames of videos are on display.
        num_frames: Of a clip; None: images.
    """
    distinct = tuple(sorted(set(sizes)))
    centre = Centre(distinct[0], times) if len(distinct) == 1 else Centres(distinct, times)
    return of_media(centre, num_frames)


def embed(
    images: ray.data.Dataset, encoders: Encoders, *, block_rows: int = BLOCK_ROWS, num_actors: int
) -> ray.data.Dataset:
    """Add embeddings to a stream of the blocks that `shape_for` makes, in order.

    Args:
        images: Blocks with `sample_id, position, valid` and images.
        encoders: What to compute.
        block_rows: Rows of every block but the last.
        num_actors: Size of the pool.
    """
    return map_in_networks(
        images, Embed, encoders, encoders.placed, block_rows=block_rows, num_actors=num_actors
    )


def averaged(
    columns: Mapping[str, np.ndarray], names: Sequence[str], num_rows: int
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Average the features of each sample's clips: those that could be read.

    Args:
        columns: Of a stream with content, a row a clip, `schema.ROW` its sample.
        names: Columns of features, (clips, D).
        num_rows: N, the number of samples.

    Returns:
        Features by name, (N, D) float32; (N,) bool, whether any clip of each could be read; (N,)
            int64 hashes of their content.
    """
    valid = columns[schema.VALID]
    row = columns[schema.ROW][valid]
    clips = np.bincount(row, minlength=num_rows)
    content = np.zeros(num_rows, np.int64)
    content[row] = columns[schema.CONTENT][valid]
    features = {name: means(columns[name][valid], row, num_rows) for name in names}
    return features, clips > 0, content
