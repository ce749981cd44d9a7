"""Tells what an adapted artifact makes of streams of images, in a pool of Ray Data actors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import ray.data
import torch
from torch import Tensor

from models import artifact
from models.supervised.head import MOST, Boxes
from pipelines import schema
from pipelines.embeddings.embed import BLOCK_ROWS
from pipelines.ray_tasks import Placed, map_in_networks
from pipelines.storage import uris

PROBABILITIES = "probabilities"  # (B, C) float32
CONFUSION = "confusion"  # (B, C * C) int32, pixels of class i told as class j
TOLD_MASK = "told_mask"  # (B, S, S) uint8 class indices
# (B, 6 * MOST) float32: x, y, width, height in px of the file's image, class, score; class -1: none
FOUND_BOXES = "found_boxes"


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
    """An actor's artifact; takes blocks with `image`, gives them back with what it tells in its
    place.

    Of classes the column `probabilities`; of masks `confusion` where the block has masks, and
    `told_mask` where not; of boxes `found_boxes`, for blocks of `Fitted`.
    """

    def __init__(self, predictor: Predictor) -> None:
        torch.set_num_threads(predictor.placed.threads)
        # the artifact opens its URI with plain fsspec: with this client from now
        uris.filesystem(predictor.artifact)
        self._device = torch.device(predictor.placed.device)
        loaded = artifact.load(predictor.artifact).to(self._device)
        self._artifact = loaded.to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Predict one block."""
        images = torch.from_numpy(np.array(batch.pop(schema.IMAGE))).to(self._device)
        head = self._artifact.head
        if head is not None and head.config.task == "boxes":
            return batch | {FOUND_BOXES: _box_rows(self._artifact.find(images), images, batch)}
        prepared = self._artifact.preprocess(images)
        told = self._artifact.predict(prepared.contiguous(memory_format=torch.channels_last))
        if told.ndim == 2:
            return batch | {PROBABILITIES: told.float().cpu().numpy()}
        if schema.MASK not in batch:
            return batch | {TOLD_MASK: told.argmax(1).to(torch.uint8).cpu().numpy()}
        mask = torch.from_numpy(np.array(batch.pop(schema.MASK))).to(self._device)
        return batch | {CONFUSION: confusions(mask, told).cpu().numpy()}


def _box_rows(
    found: Sequence[Boxes], images: Tensor, batch: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Bring boxes to the pixels of their files' images, in rows of one length."""
    rows = np.zeros((len(found), MOST, 6), np.float32)
    rows[..., 4] = -1
    for index, one in enumerate(found):
        height = int(batch[schema.HEIGHT][index])
        width = int(batch[schema.WIDTH][index])
        if not height:  # it could not be read
            continue
        own = one.enlarged(height, width, images.shape[2])
        count = len(own.labels)
        corners = own.corners.cpu().numpy()
        rows[index, :count, :2] = corners[:, :2]
        rows[index, :count, 2:4] = corners[:, 2:] - corners[:, :2]
        rows[index, :count, 4] = own.labels.cpu()
        rows[index, :count, 5] = own.scores.cpu()
    return rows.reshape(len(found), -1)


def confusions(mask: Tensor, told: Tensor) -> Tensor:
    """Count how pixels were told, those of no class left out.

    Args:
        mask: (B, S, S) uint8.
        told: (B, C, S, S).

    Returns:
        (B, C * C) int32.
    """
    num_images, num_classes = told.shape[:2]
    right = mask.flatten(1).long()
    labelled = right < num_classes
    place = right * num_classes + told.argmax(1).flatten(1)
    place = torch.where(labelled, place, num_classes**2)
    counts = torch.zeros(num_images, num_classes**2 + 1, dtype=torch.int32, device=mask.device)
    counts.scatter_add_(1, place, torch.ones_like(place, dtype=torch.int32))
    return counts[:, :-1]


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
