"""Tells what an adapted artifact makes of streams of images, in a pool of Ray Data actors."""

from dataclasses import dataclass

import numpy as np
import ray.data
import torch

from models import artifact
from models.steps import memory_layout
from pipelines.embeddings.embed import BLOCK_ROWS
from pipelines.predictions.answers import answered
from pipelines.ray_tasks import Placed, map_in_networks
from pipelines.storage import uris


@dataclass(frozen=True)
class Predictor:
    """Which artifact, and where it runs.

    Attributes:
        artifact: URI of an artifact with a head.
        placed: Where the actors run.
    """

    artifact: str
    placed: Placed


class Predict:
    """An actor's artifact; takes blocks with `image`, gives them back with its answers."""

    def __init__(self, predictor: Predictor) -> None:
        torch.set_num_threads(predictor.placed.threads)
        # the artifact opens its URI with plain fsspec: with this client from now
        uris.filesystem(predictor.artifact)
        loaded = artifact.load(predictor.artifact).to(torch.device(predictor.placed.device))
        memory_layout.channels_last(loaded)
        self._artifact = loaded

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Predict one block."""
        return answered(self._artifact, batch)


def predict(
    images: ray.data.Dataset,
    predictor: Predictor,
    *,
    block_rows: int = BLOCK_ROWS,
    num_actors: int,
) -> ray.data.Dataset:
    """Add what an artifact tells to a stream of `Centre` or `Fitted` blocks, in order.

    Args:
        images: Blocks with `image`, and `mask` where it is to be judged.
        predictor: What to predict with.
        block_rows: Rows of every block but the last.
        num_actors: Size of the pool.
    """
    return map_in_networks(
        images, Predict, predictor, predictor.placed, block_rows=block_rows, num_actors=num_actors
    )
