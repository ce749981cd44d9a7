"""What probes are compared with, and how sure an accuracy is."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from augment.texts.special_tokens import is_word

_PLACES = 1024
_SPREAD = 2_654_435_761  # Knuth's multiplicative hash


def bootstrap_interval(
    correct: NDArray[np.bool_], *, level: float = 0.95, num_resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of an accuracy, over test images.

    Drawing N of N images with replacement and counting the correct ones is one binomial draw, so no
    image is drawn. The interval covers the choice of test images, not the training seed; it has no
    width where all answers agree.

    Args:
        correct: Whether each test image was classified rightly, (N,) bool.
        level: Share of the resampled accuracies inside the interval, in (0, 1).
        num_resamples: Resampled test sets.
        seed: Seed of the resampling.

    Returns:
        Lower and upper end, each in 0..1.

    Raises:
        ValueError: no image, or a level out of range.
    """
    correct = np.asarray(correct, dtype=bool)
    if correct.ndim != 1 or correct.size == 0:
        raise ValueError(f"correct must be (N,) with N >= 1, got {correct.shape}")
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    hits = np.random.default_rng(seed).binomial(correct.size, correct.mean(), size=num_resamples)
    low, high = np.quantile(hits / correct.size, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@torch.no_grad()
def colour_statistics(images: Tensor) -> Tensor:
    """Describe images by their palette alone, the floor that learnt features must rise above.

    Args:
        images: (B, 3, H, W) uint8.

    Returns:
        (B, 30) float32: mean, standard deviation and a histogram of eight equal bins of each
            channel, all in 0..1.
    """
    pixels = images.flatten(2)  # (B, 3, H*W)
    bins = functional.one_hot((pixels >> 5).long(), 8).float().mean(dim=2)  # (B, 3, 8)
    unit = pixels.float() / 255
    return torch.cat([unit.mean(dim=2), unit.std(dim=2, correction=0), bins.flatten(1)], dim=1)


def bag_of_words(tokens: Tensor) -> Tensor:
    """Count the words of texts: what any encoder of texts must beat.

    Args:
        tokens: (B, L) integers: start, words, end, padding.

    Returns:
        (B, 1024) float32: square roots of how often each word stands there; some share a place.
    """
    tokens = tokens.long()
    places = (tokens * _SPREAD >> 16) % _PLACES
    counts = torch.zeros(len(tokens), _PLACES, device=tokens.device)
    return counts.scatter_add_(1, places, is_word(tokens).float()).sqrt()
