"""Embeds streams of centre crops with frozen encoders, in a pool of Ray Data actors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import ray.data
import torch
from torch import Tensor

from models import artifact
from models.probes import colour_statistics
from pipelines import schema
from pipelines.ray_tasks import map_in_actors
from pipelines.storage import uris

BLOCK_ROWS = 256
Kind = Literal["pretrained", "untrained", "colour"]


@dataclass(frozen=True)
class Encoders:
    """Which features to take of each image, in one pass over the pixels.

    Attributes:
        artifact: URI of the artifact.
        columns: Column name to `pretrained` (the artifact), `untrained` (its configuration
            initialised with its seed) or `colour` (statistics of the pixels, no network).
        use_gpu: Whether each actor has a GPU.
        threads: Compute threads of an actor on the CPU.
        cpus: Logical CPUs that it holds.
    """

    artifact: str
    columns: Mapping[str, Kind]
    use_gpu: bool
    threads: int
    cpus: float = 1.0


class Embed:
    """An actor's encoders; takes blocks with `image`, gives them back with embeddings in its
    place."""

    def __init__(self, encoders: Encoders) -> None:
        torch.set_num_threads(encoders.threads)
        uris.filesystem(
            encoders.artifact
        )  # the artifact opens its URI with plain fsspec: with this client from now
        self._device = torch.device("cuda" if encoders.use_gpu else "cpu")
        loaders = {"pretrained": artifact.load, "untrained": artifact.untrained}
        self._columns = encoders.columns
        self._loaded = {
            kind: load(encoders.artifact)
            for kind, load in loaders.items()
            if kind in encoders.columns.values()
        }
        for encoder in self._loaded.values():
            encoder.to(self._device).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Embed one block; columns are float32 (B, D)."""
        images = torch.from_numpy(np.array(batch.pop(schema.IMAGE))).to(self._device)
        features = {
            name: self._features(kind, images).float().cpu().numpy()
            for name, kind in self._columns.items()
        }
        return batch | features

    def _features(self, kind: Kind, images: Tensor) -> Tensor:
        if kind == "colour":
            return colour_statistics(images)
        encoder = self._loaded[kind]
        features: Tensor = encoder(
            encoder.preprocess(images).contiguous(memory_format=torch.channels_last)
        )
        return features


def embed(
    images: ray.data.Dataset, encoders: Encoders, *, block_rows: int = BLOCK_ROWS, num_actors: int
) -> ray.data.Dataset:
    """Add embeddings to a stream of `shapes.Centre` blocks, in order.

    Args:
        images: Blocks with `sample_id, position, valid, image`.
        encoders: What to compute.
        block_rows: Rows of every block but the last.
        num_actors: Size of the pool; fixed, as a growing one starts too late to matter.
    """
    return map_in_actors(
        images,
        Embed,
        encoders,
        size=num_actors,
        batch_size=block_rows,  # Ray insists on a number where there are GPUs
        num_cpus=encoders.cpus,
        num_gpus=1 if encoders.use_gpu else None,
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
    features = {}
    for name in names:
        total = np.zeros((num_rows, columns[name].shape[1]), np.float32)
        np.add.at(total, row, columns[name][valid])
        features[name] = total / np.maximum(clips, 1)[:, None]
    return features, clips > 0, content
