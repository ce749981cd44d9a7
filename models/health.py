"""Signs of life in features, without labels."""

import torch
from torch import Tensor
from torch.nn import functional


@torch.no_grad()
def feature_std(z: Tensor) -> Tensor:
    """How widely normalised features spread: 0 when all collapse to one point, 1 / sqrt(D) when spread evenly.

    SimSiam's measure of collapse (arXiv:2011.10566, fig. 2).

    Args:
        z: Features, (N, D), any float dtype.

    Returns:
        Standard deviation over samples of the L2-normalised features, mean over dimensions; a float32 scalar.
    """
    return functional.normalize(z.float(), dim=-1).std(dim=0, correction=0).mean()


@torch.no_grad()
def rankme(z: Tensor) -> Tensor:
    """How many dimensions the features fill: the exponential of the entropy of their singular values.

    RankMe (arXiv:2210.02885, eq. 1-2), without its epsilon. It is at most min(N, D), so compare it at equal N.

    Args:
        z: Features, (N, D), any float dtype; neither centred nor normalised here.

    Returns:
        Effective rank in [1, min(N, D)], a float32 scalar; NaN where a feature is not finite.
    """
    z = z.float()
    if not z.isfinite().all():  # the decomposition would raise, and a metric must not stop a run
        return z.new_full((), torch.nan)
    singular = torch.linalg.svdvals(z)
    share = singular / singular.sum().clamp(min=torch.finfo(z.dtype).tiny)
    entropy: Tensor = torch.special.entr(share).sum()
    return entropy.exp()
