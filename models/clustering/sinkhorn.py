"""Assignments to clusters of which none takes all."""

import torch
from torch import Tensor

from models.collectives import all_reduce_sum, gather


def sinkhorn(scores: Tensor, weight: Tensor, *, epsilon: float | Tensor, iterations: int) -> Tensor:
    """Assign samples to clusters so that every cluster gets an equal share of all workers' samples
    (SwAV, arXiv:2006.09882, eq. 3 to 5).

    Args:
        scores: Similarities of this worker's N samples to K clusters, (..., N, K) float32; leading
            dimensions are balanced each by itself.
        weight: How much each sample counts, (N,) >= 0; one of weight 0 changes no other.
        epsilon: Divides the scores, > 0; the smaller the harder the assignment.
        iterations: Rounds of balancing clusters, then samples.

    Returns:
        (..., N, K) float32; each row sums to 1, the clusters' sums are about equal. Rows of weight
        0 mean nothing.
    """
    tiny = torch.finfo(scores.dtype).tiny
    lowest = torch.finfo(scores.dtype).min
    weight = weight.unsqueeze(1)  # (N, 1)
    masked = scores.masked_fill(weight <= 0, lowest)
    top = gather(masked.amax((-2, -1), keepdim=True).unsqueeze(0)).amax(0)  # (..., 1, 1)
    shares = ((scores - top) / epsilon).clamp(max=0).exp() * weight
    for _ in range(iterations):
        shares = shares / all_reduce_sum(shares.sum(-2, keepdim=True)).clamp(min=tiny)
        shares = shares / shares.sum(-1, keepdim=True).clamp(min=tiny) * weight
    return shares / weight.clamp(min=tiny)
