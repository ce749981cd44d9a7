"""The check that a form must pass before it counts as written: equal embeddings, and scores, of a
photograph's crops."""

import numpy as np
import torch
from matplotlib import cbook
from PIL import Image
from torch import Tensor

from models.artifact import Artifact
from models.publishing.form import Form, Tell

TOLERANCE = 1e-4
_PHOTOGRAPH = "grace_hopper.jpg"  # inside matplotlib's wheel
_CROPS = 8
_SMALLEST = 64
_PAN = 4  # px from one frame to the next


def check_images(artifact: Artifact) -> Tensor:
    """Prepare crops of a photograph, always the same ones, of different places, sizes and shapes;
    of a clip's frames each lies a little to the right of the one before.

    Returns:
        (B, 3, S, S) float32, or clips (B, T, 3, S, S).
    """
    num_frames = artifact.num_frames
    place = cbook.get_sample_data(_PHOTOGRAPH, asfileobj=False)
    pixels = np.array(Image.open(str(place)).convert("RGB"))
    rng = np.random.default_rng(0)
    prepared = []
    for _ in range(_CROPS):
        height, width = rng.integers(_SMALLEST, min(pixels.shape[:2]) + 1, size=2)
        top = rng.integers(0, pixels.shape[0] - height + 1)
        left = rng.integers(0, pixels.shape[1] - width + 1)
        lefts = np.minimum(left + _PAN * np.arange(num_frames or 1), pixels.shape[1] - width)
        frames = np.stack([pixels[top : top + height, at : at + width] for at in lefts])
        clip = torch.from_numpy(frames).permute(0, 3, 1, 2)[None]  # (1, T, 3, H, W)
        prepared.append(artifact.preprocess(clip[:, 0] if num_frames is None else clip))
    return torch.cat(prepared)


@torch.no_grad()
def difference(form: Form, tell: Tell, images: Tensor) -> float:
    """Measure how far what a form gives lies from the artifact's own, in batches of two sizes.

    Returns:
        The largest difference, as a share of the largest value of embeddings or of scores; infinite
        where a part is missing, the shapes differ or a value is no number.
    """
    wanted = form.wanted(images)
    first = tell(images[:1])
    rest = tell(images[1:])
    if not wanted.keys() == first.keys() == rest.keys():
        return float("inf")
    pairs = [(torch.cat([first[name], rest[name]]), own) for name, own in wanted.items()]
    return max(_difference(found, own) for found, own in pairs)


def _difference(found: Tensor, wanted: Tensor) -> float:
    if found.shape != wanted.shape or not torch.isfinite(found).all():
        return float("inf")
    scale = wanted.abs().max().clamp(min=torch.finfo(wanted.dtype).tiny)
    return float((found - wanted).abs().max() / scale)
