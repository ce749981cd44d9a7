"""Signs of life in features, without labels."""

import math

import torch
from torch import Tensor
from torch.nn import functional

_FITTED_RANKS = (4, 100)  # of alpha-ReQ


@torch.no_grad()
def feature_std(z: Tensor) -> Tensor:
    """Measure how widely normalised features spread: 0 at one point, 1 / sqrt(D) spread evenly.

    SimSiam's measure of collapse (arXiv:2011.10566, fig. 2).

    Args:
        z: Features, (N, D), any float dtype.

    Returns:
        Standard deviation over samples of the L2-normalised features, mean over dimensions; a
        float32 scalar.
    """
    return functional.normalize(z.float(), dim=-1).std(dim=0, correction=0).mean()


@torch.no_grad()
def spread(z: Tensor, wanted_std: float | None = None) -> Tensor:
    """Measure how far features spread, as a share: 0 at one point, about 1 at the most.

    Args:
        z: Features, (N, D), any float dtype.
        wanted_std: Standard deviation that an objective asks of each feature, whose share is
            measured; None: it compares directions, whose share of an even spread is, by
            `feature_std`.

    Returns:
        A float32 scalar.
    """
    if wanted_std is not None:
        return (z.float().std(dim=0, correction=0).mean() / wanted_std).clamp(max=1)
    share: Tensor = feature_std(z) * z.shape[1] ** 0.5
    return share


@torch.no_grad()
def variation(z: Tensor) -> Tensor:
    """Measure which share of features' squared length tells samples apart: 0 at one point.

    Unlike `spread` it is meant for embeddings, most of which is common to all images while a
    network is untrained: on CIFAR-10 0.02 to 0.99 in eleven untrained encoders. One point with one
    hundredth of noise has 0.0001, and an effective rank of 4.

    Args:
        z: Features, (N, D), any float dtype.

    Returns:
        A float32 scalar in [0, 1]; 0 where all features are 0.
    """
    z = z.double()
    total = z.square().sum(1).mean()
    share: Tensor = (z - z.mean(0)).square().sum(1).mean() / total
    return share.where(total > 0, 0.0).float()


def of_an_instant(tokens: Tensor, num_places: int) -> Tensor:
    """Return the tokens of the middle of clips, (B, num_places, D) of (B, times * num_places, D):
    at one place, those of all times are alike. Of images, all."""
    times: Tensor = tokens.unflatten(1, (-1, num_places))
    return times[:, times.shape[1] // 2]


@torch.no_grad()
def patch_variation(patches: Tensor) -> Tensor:
    """Measure how much of the patch tokens is the image's, and not the same for every image.

    Tokens that tell their place alone differ from each other, though they say nothing of the image:
    hence each place is compared over images. Five untrained vision transformers have 0.47 to 0.78.
    On CIFAR-10 MAE has 0.27 or more in its first 120 steps, SimMIM 0.70; on pieces of a photograph
    I-JEPA has 0.40 after 40 steps, and without its stop-gradient 0.002.

    Args:
        patches: Tokens of B >= 2 images, (B, N, D), any float dtype.

    Returns:
        Variance over images of the layer-normalised tokens at a place, as a share of their mean
        square: 0 where every image has the same tokens, at most 1; a float32 scalar.
    """
    tokens = functional.layer_norm(patches.float(), patches.shape[-1:])
    share: Tensor = tokens.var(0, correction=0).mean() / tokens.square().mean().clamp(min=1e-6)
    return share


@torch.no_grad()
def patch_rank(patches: Tensor) -> Tensor:
    """Measure how many dimensions patch tokens fill beyond what their place tells: `rankme` of the
    tokens less each place's mean over images.

    Args:
        patches: Tokens of B images, (B, N, D), any float dtype.

    Returns:
        Effective rank in [1, min(B * N, D)], a float32 scalar; NaN where a feature is not finite.
    """
    tokens = patches.float()
    return rankme((tokens - tokens.mean(0)).flatten(0, 1))


@torch.no_grad()
def patch_locality(patches: Tensor, grid: tuple[int, int]) -> Tensor:
    """Measure how much more alike neighbouring patches are than any two of an image.

    Long runs lose it: their patch tokens grow alike all over the image (DINOv3, arXiv:2508.10104,
    section 4).

    Args:
        patches: Tokens of B images, (B, N, D), any float dtype.
        grid: Rows and columns of patches, N of them, at least two each.

    Returns:
        Mean cosine similarity of neighbours less that of all pairs of an image, of the tokens less
        each place's mean over images; 0 where places do not matter, a float32 scalar.
    """
    tokens = patches.float()
    tokens = functional.normalize(tokens - tokens.mean(0), dim=-1)
    square = tokens.unflatten(1, grid)  # (B, h, w, D)
    right = (square[:, :, 1:] * square[:, :, :-1]).sum(-1)
    below = (square[:, 1:] * square[:, :-1]).sum(-1)
    near = torch.cat([right.flatten(), below.flatten()]).mean()
    num = tokens.shape[1]
    alike = (tokens.sum(1).square().sum(-1) - num) / (num * (num - 1))  # the mean of all pairs
    return near - alike.mean()


@torch.no_grad()
def rankme(z: Tensor) -> Tensor:
    """Measure how many dimensions features fill: exp of the entropy of their singular values.

    RankMe (arXiv:2210.02885, eq. 1-2), without its epsilon. It is at most min(N, D), so compare it
    at equal N.

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


@torch.no_grad()
def alpha_req(z: Tensor) -> Tensor:
    """Measure how fast the variance along principal directions falls: the exponent of a power law.

    alpha-ReQ (arXiv:2202.05808): the least-squares slope of log eigenvalue against log rank, over
    ranks 4 to 100, each weighted by 1 / rank. The first ranks seldom lie on the line, and of few
    samples the last ones are too small: of 512 samples in 512 dimensions whose exponent is 1, a fit
    of all ranks reads 1.9 and this one 0.95. Features that generalise lie near 1; near 0 all
    directions weigh alike, far above 1 few directions carry everything.

    Args:
        z: Features, (N, D), any float dtype; centred here.

    Returns:
        The exponent, a float32 scalar; NaN where a feature is not finite or fewer than five
        directions vary by more than rounding.
    """
    z = z.float()
    if not z.isfinite().all():
        return z.new_full((), torch.nan)
    singular = torch.linalg.svdvals(z - z.mean(0))
    floor = singular[0] * max(z.shape) * torch.finfo(z.dtype).eps  # as matrix_rank
    variances = singular[singular > floor].square()
    first, last = _FITTED_RANKS
    fitted = variances[first - 1 : last].log()
    if len(fitted) < 2:
        return z.new_full((), torch.nan)
    rank = torch.arange(first, first + len(fitted), device=z.device, dtype=z.dtype)
    weight = (1 / rank) / (1 / rank).sum()
    x = rank.log() - (weight * rank.log()).sum()
    slope: Tensor = (weight * x * fitted).sum() / (weight * x.square()).sum()
    return -slope


@torch.no_grad()
def alignment(first: Tensor, second: Tensor) -> Tensor:
    """Measure how near two views lie: mean squared distance of unit vectors (arXiv:2005.10242, eq.
    7).

    Args:
        first: Features of one view, (N, D), any float dtype.
        second: Of the other view of the same samples, (N, D).

    Returns:
        0 where views coincide, 2 where they are unrelated, at most 4; a float32 scalar.
    """
    first, second = (functional.normalize(z.float(), dim=-1) for z in (first, second))
    return (first - second).square().sum(-1).mean()


@torch.no_grad()
def uniformity(z: Tensor, *, t: float = 2.0) -> Tensor:
    """Measure how evenly features cover the sphere: log mean Gaussian potential (arXiv:2005.10242,
    eq. 8).

    Args:
        z: Features of N >= 2 different samples, (N, D), any float dtype; takes 4 * N^2 bytes.
        t: Sharpness of the potential. Paper: 2.

    Returns:
        0 where all coincide, the lower the more even, above -4 * t; a float32 scalar.
    """
    z = functional.normalize(z.float(), dim=-1)
    squared = 2 - 2 * z @ z.T
    apart = ~torch.eye(len(z), dtype=torch.bool, device=z.device)
    return (-t * squared[apart]).logsumexp(0) - apart.sum().log()


@torch.no_grad()
def recognised(plain: Tensor, viewed: Tensor) -> Tensor:
    """Tell of which samples the changed view is nearest to the sample itself, among all samples.

    Args:
        plain: Features of N different samples, (N, D), any float dtype.
        viewed: Of a view of each, (N, D).

    Returns:
        (N,) bool. An encoder that tells nothing apart is right once in N; equal similarities are
        not.
    """
    plain, viewed = (functional.normalize(z.float(), dim=-1) for z in (plain, viewed))
    likeness = viewed @ plain.T
    own = likeness.diagonal().clone()
    likeness.fill_diagonal_(-torch.inf)
    nearest: Tensor = own > likeness.amax(1)
    return nearest


@torch.no_grad()
def prototype_entropy(assignments: Tensor) -> Tensor:
    """Measure how many clusters are in use: the entropy of the mean assignment.

    Args:
        assignments: Distributions over clusters, (N, K) float; rows of zeros have no part.

    Returns:
        Nats in [0, log K], 0 where one cluster takes everything or nothing is assigned; a float32
        scalar.
    """
    total = assignments.float().sum(0)  # (K,)
    entropy: Tensor = torch.special.entr(
        total / total.sum().clamp(min=torch.finfo(total.dtype).tiny)
    ).sum()
    return entropy


@torch.no_grad()
def info_nce_bound(loss: Tensor, num_candidates: Tensor | int) -> Tensor:
    """Bound the mutual information of two views from below, nats (arXiv:1807.03748, eq. 5).

    Args:
        loss: InfoNCE, nats, a scalar.
        num_candidates: N, the positive included; as a tensor, an integer scalar on the loss's
            device. The bound cannot exceed log N.
    """
    if isinstance(num_candidates, int):
        return math.log(num_candidates) - loss
    return num_candidates.clamp(min=1).float().log() - loss
