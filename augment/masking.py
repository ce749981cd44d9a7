"""Random masks over an encoder's tokens."""

import torch
from torch import Tensor

from augment.rng import uniform


def random_mask(
    num_tokens: int,
    mask_ratio: float,
    *,
    seed: int,
    epoch: Tensor,
    sample_id: Tensor,
    view: int = 0,
) -> tuple[Tensor, Tensor]:
    """Hide the same number of tokens of every sample, each set equally likely (MAE,
    arXiv:2111.06377, section 3).

    Args:
        num_tokens: Tokens of a sample, N.
        mask_ratio: Share to hide, in (0, 1); rounded to whole tokens. Paper: 0.75.
        seed: The run's seed.
        epoch: (B,) int64.
        sample_id: (B,) int64.
        view: Index of the masked view among all views of the sample.

    Returns:
        Indices of the visible tokens in ascending order, (B, K) int64, and the mask, (B, N) bool,
        true where hidden; on sample_id's device.

    Raises:
        ValueError: the ratio leaves no token visible, or hides none.
    """
    num_visible = num_tokens - round(num_tokens * mask_ratio)
    if not 0 < num_visible < num_tokens:
        raise ValueError(
            f"mask_ratio must be in (0, 1) and hide some but not all of the {num_tokens} tokens,"
            f" got {mask_ratio}"
        )
    scores = uniform(num_tokens, seed=seed, epoch=epoch, sample_id=sample_id, view=view, op="mask")
    # stable: ties fall alike on every device
    visible = scores.argsort(dim=1, stable=True)[:, :num_visible].sort(dim=1).values
    mask = torch.ones_like(scores, dtype=torch.bool).scatter_(1, visible, False)
    return visible, mask
