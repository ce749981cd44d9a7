"""A batch of pieces of a photograph, for the tests of methods that take one plain view."""

import skimage.data
import torch
from torch import Tensor

from augment.presets import plain_views
from models.method import Batch


def tiles(count: int, size: int = 32) -> Tensor:
    """Disjoint tiles of a photograph, normalised as the views are, (B, 3, size, size)."""
    views = plain_views(size, (0.2, 1.0))
    image = torch.from_numpy(skimage.data.astronaut()).permute(2, 0, 1).float() / 255
    image = (image - torch.tensor(views.mean).view(3, 1, 1)) / torch.tensor(views.std).view(3, 1, 1)
    cut = image.unfold(1, size, size).unfold(2, size, size).permute(1, 2, 0, 3, 4).flatten(0, 1)
    return cut[:: len(cut) // count][:count].contiguous()


def make_batch(images: Tensor, epoch: int = 0) -> Batch:
    return Batch(
        views={"global_crops": images.unsqueeze(0)},
        sample_id=torch.arange(len(images)) + 100,
        row=torch.arange(len(images)),
        epoch=torch.full((len(images),), epoch),
        valid=torch.ones(len(images), dtype=torch.bool),
    )
