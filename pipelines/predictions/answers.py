"""What an adapted artifact makes of a block of images."""

from collections.abc import Sequence

import numpy as np
import torch

from models.artifact import Artifact
from models.preprocess import neutral
from models.probing.mask_scores import confusions
from models.steps.memory_layout import laid_out
from models.supervised.head import MOST, Boxes
from pipelines import schema
from pipelines.stream.shapes import Centre, Fitted, Shape, of_media

PROBABILITIES = "probabilities"  # (B, C) float32; of K heads side by side (B, C * K)
CONFUSION = "confusion"  # (B, C * C) int32, pixels of class i told as class j
TOLD_MASK = "told_mask"  # (B, S, S) uint8 class indices
# (B, 6 * MOST) float32: x, y, width, height in px of the file's image, class, score; class -1: none
FOUND_BOXES = "found_boxes"


def whole_images(adapted: Artifact, *, masks: bool = False) -> Fitted:
    """Return the shape of blocks of whole images, with what an artifact takes for nothing beside
    them."""
    return Fitted(adapted.image_size, masks=masks, rest=neutral(adapted.of_images.mean))


def looked_at(adapted: Artifact) -> Shape:
    """Return the shape of blocks that an artifact's head tells of."""
    if adapted.head is not None and adapted.head.config.task in ("mask", "boxes"):
        return whole_images(adapted)
    return of_media(Centre(adapted.image_size), adapted.num_frames)


@torch.inference_mode()
def answered(adapted: Artifact, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Put what an artifact tells of a `Centre` or `Fitted` block in the place of its images.

    Of classes the column `probabilities`; of masks `confusion` where the block has masks, and
    `told_mask` where not; of boxes `found_boxes`, for blocks of `Fitted`.
    """
    images = torch.from_numpy(np.array(batch.pop(schema.IMAGE))).to(adapted.mean.device)
    if adapted.head is not None and adapted.head.config.task == "boxes":
        sizes = zip(batch[schema.HEIGHT].tolist(), batch[schema.WIDTH].tolist(), strict=True)
        rows = _box_rows(adapted.find(images), list(sizes), images.shape[2])
        return batch | {FOUND_BOXES: rows}
    prepared = adapted.preprocess(images)
    told = adapted.predict(laid_out(prepared))
    if told.ndim < 4:
        return batch | {PROBABILITIES: told.flatten(1).float().cpu().numpy()}
    if schema.MASK not in batch:
        return batch | {TOLD_MASK: told.argmax(1).to(torch.uint8).cpu().numpy()}
    mask = torch.from_numpy(np.array(batch.pop(schema.MASK))).to(told.device)
    return batch | {CONFUSION: confusions(mask, told).cpu().numpy()}


def _box_rows(found: Sequence[Boxes], sizes: Sequence[tuple[int, int]], side: int) -> np.ndarray:
    """Bring boxes to the pixels of their files' images, in rows of one length."""
    rows = np.zeros((len(found), MOST, 6), np.float32)
    rows[..., 4] = -1
    for row, one, (height, width) in zip(rows, found, sizes, strict=True):
        if not height:  # it could not be read
            continue
        own = one.enlarged(height, width, side)
        count = len(own.labels)
        corners = own.corners.cpu().numpy()
        row[:count, :2] = corners[:, :2]
        row[:count, 2:4] = corners[:, 2:] - corners[:, :2]
        row[:count, 4] = own.labels.cpu()
        row[:count, 5] = own.scores.cpu()
    return rows.reshape(len(found), MOST * 6)
