"""Objectives that more than one method can use, as pure functions of embeddings.

Those of two views take z (2, B, D), this worker's B samples; positives are the views of one sample,
negatives the views of every other sample of the global batch, gathered with gradient. Under all of
them

- `valid` (B,) bool is False where a sample could not be read: it is neither an anchor nor a
  negative. None: all are valid. It is given by every worker or by none, and B is the same on every
  worker;
- the result is a float32 scalar: this worker's sum over its valid anchors, times the number of
  workers, over the valid anchors of the global batch, so that DDP's average gradient equals that of
  one process with the joined batch. It is zero, with zero gradient, where no sample of the global
  batch is valid.
"""

from contextlib import AbstractContextManager
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from models.collectives import gather, rank, world_size


def nt_xent(z: Tensor, *, temperature: float, valid: Tensor | None = None) -> Tensor:
    """Contrast each embedding with its other view against the rest of the global batch.

    Normalised temperature-scaled cross entropy, SimCLR eq. 1 (arXiv:2002.05709). Embeddings of all
    workers are negatives, so the loss does not depend on how the batch is split among them; at
    chance it is log(2 * B * world_size - 1).

    Args:
        z: Projections of two views, (2, B, D), any float dtype; need not be normalised.
        temperature: Divides the cosine similarities, > 0. Paper: 0.1 at B = 4096.
        valid: (B,) bool, as above.

    Returns:
        Nats.

    Raises:
        ValueError: fewer than two samples in the global batch (there is no negative), not two
            views, or a temperature that is not positive.
    """
    _check_two_views(z)
    _check_positive("temperature", temperature)
    with _float32(z):  # exp overflows in fp16 at temperature 0.1
        z = functional.normalize(z.float(), dim=-1)
        everyone, valid, everyone_valid, same = _meet(z, valid)
        logits = torch.einsum("vbd,wgd->vbwg", z, everyone) / temperature  # (2, B, 2, W*B)
        positive = (z[0] * z[1]).sum(-1) / temperature  # (B,)
        logits = _without(logits, _itself(same) | ~everyone_valid)
        return _share(logits.flatten(2).logsumexp(-1) - positive, valid, everyone_valid)


def info_nce(
    queries: Tensor,
    keys: Tensor,
    *,
    temperature: float | Tensor,
    valid: Tensor | None = None,
    decoys: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Find each query's key among the keys of the global batch, and perhaps a decoy of its own.

    InfoNCE of contrastive predictive coding (arXiv:1807.03748, eq. 4) with cosine similarity. With
    N valid samples in the global batch, log N minus this loss bounds the mutual information of
    query and key from below; at chance it is log N. One direction: callers who want both add the
    loss with the arguments swapped.

    Args:
        queries: (B, D), any float dtype; need not be normalised.
        keys: (B, D), row i belongs to query i.
        temperature: Divides the cosine similarities, > 0; a scalar tensor where it is learnt.
        valid: (B,) bool, as above.
        decoys: (B, D), a wrong key more for each query alone; and (B,) bool, where there is one.

    Returns:
        Nats.

    Raises:
        ValueError: shapes that differ, or a temperature that is not positive.
    """
    if queries.ndim != 2 or queries.shape != keys.shape:
        raise ValueError(
            f"queries and keys must both be (B, D), got {tuple(queries.shape)} and"
            f" {tuple(keys.shape)}"
        )
    if not isinstance(temperature, Tensor):  # of which nobody waits for the value
        _check_positive("temperature", temperature)
    with _float32(queries):
        queries, keys = (functional.normalize(x.float(), dim=-1) for x in (queries, keys))
        if decoys is not None:
            decoys = functional.normalize(decoys[0].float(), dim=-1), decoys[1]
        return _cross_entropy(queries / temperature, keys, valid, decoys)


def nce(z: Tensor, *, temperature: float, valid: Tensor | None = None) -> Tensor:
    """Tell each embedding's other view from noise, every other sample's, by logistic regression.

    Noise-contrastive estimation (Gutmann & Hyvarinen 2010) of the non-parametric softmax p(j | i) =
    exp(s_ij / T) / Z over the N samples of the other view: the other N - 1 are as many draws of
    uniform noise. Z is one constant, the batch's mean, through which no gradient flows (instance
    discrimination estimates it alike, arXiv:1805.01978).

    Args:
        z: Projections of two views, (2, B, D), any float dtype; need not be normalised.
        temperature: Divides the cosine similarities, > 0.
        valid: (B,) bool, as above.

    Returns:
        Nats; sum of an anchor's N decisions.

    Raises:
        ValueError: as `nt_xent`.
    """
    _check_two_views(z)
    _check_positive("temperature", temperature)
    with _float32(z):
        z = functional.normalize(z.float(), dim=-1)
        everyone, valid, everyone_valid, same = _meet(z, valid)
        scores = torch.einsum("vbd,vgd->vbg", z, everyone.flip(0)) / temperature  # (2, B, W*B)
        scores = _without(scores, ~everyone_valid)
        num_valid = everyone_valid.sum()
        draws = (num_valid - 1).clamp(min=1)
        log_noise = (draws / num_valid.clamp(min=1)).log()  # draws times their probability 1 / N
        log_z = _log_mean_z(scores.detach(), valid)
        logits = scores - log_z - log_noise
        found = functional.softplus(
            -(z[0] * z[1]).sum(-1) / temperature + log_z + log_noise
        )  # (B,)
        # (2, B)
        fooled = functional.softplus(logits).masked_fill(same | ~everyone_valid, 0.0).sum(-1)
        return _share(found + fooled, valid, everyone_valid)


def contrastive(z: Tensor, *, margin: float, valid: Tensor | None = None) -> Tensor:
    """Pull the two views of a sample together and push every other sample out of a margin.

    D^2 for positives and max(0, margin - D)^2 for negatives (Chopra 2005; Hadsell 2006, there with
    a factor 1/2), D the Euclidean distance of unit vectors; an anchor's one positive weighs as much
    as all its negatives.

    Args:
        z: Projections of two views, (2, B, D), any float dtype; need not be normalised.
        margin: Distance from which a negative is left alone, in (0, 2]; unrelated directions are
            about 1.4 apart.
        valid: (B,) bool, as above.

    Returns:
        Squared distance.

    Raises:
        ValueError: as `nt_xent`, for the margin.
    """
    _check_two_views(z)
    _check_positive("margin", margin)
    with _float32(z):
        z = functional.normalize(z.float(), dim=-1)
        everyone, valid, everyone_valid, same = _meet(z, valid)
        negative = (~same & everyone_valid)[None, :, None]  # (1, B, 1, W*B)
        short = (margin - _root(_squared_distances(z, everyone))).relu()
        push = short.square().where(negative, 0.0)
        num_negatives = 2 * negative.sum(-1).clamp(min=1).squeeze(-1)  # (1, B)
        pull = (z[0] - z[1]).square().sum(-1)  # (B,)
        return _share(pull + push.sum((2, 3)) / num_negatives, valid, everyone_valid)


def triplet(
    z: Tensor,
    *,
    margin: float,
    mining: Literal["hard", "semi_hard"] = "semi_hard",
    valid: Tensor | None = None,
) -> Tensor:
    """Have each anchor nearer to its other view than to one chosen negative, by a margin.

    FaceNet's max(0, D_ap^2 - D_an^2 + margin) on unit vectors (arXiv:1503.03832). "hard" chooses
    the nearest negative, which early in training tends to collapse; "semi_hard" the nearest of
    those farther than the positive, and where there is none the farthest.

    Args:
        z: Projections of two views, (2, B, D), any float dtype; need not be normalised.
        margin: In squared distance, in (0, 4]. Paper: 0.2.
        mining: Which negative an anchor is compared with.
        valid: (B,) bool, as above.

    Returns:
        Squared distance, mean over all anchors, also those whose triplet is satisfied.

    Raises:
        ValueError: as `nt_xent`, for the margin.
    """
    _check_two_views(z)
    _check_positive("margin", margin)
    with _float32(z):
        z = functional.normalize(z.float(), dim=-1)
        everyone, valid, everyone_valid, same = _meet(z, valid)
        # (2, B, 2*W*B)
        negative = (~same & everyone_valid)[None, :, None].expand(2, -1, 2, -1).flatten(2)
        distance = _squared_distances(z, everyone).flatten(2)
        positive = (z[0] - z[1]).square().sum(-1).expand(2, -1)  # (2, B)
        farther = distance > positive.unsqueeze(-1)
        eligible = negative & farther if mining == "semi_hard" else negative
        nearest = distance.masked_fill(~eligible, torch.inf).amin(-1)
        farthest = distance.masked_fill(~negative, 0.0).amax(-1)
        chosen = torch.where(eligible.any(-1), nearest, farthest)
        hinge = (positive - chosen + margin).relu().where(negative.any(-1), 0.0)
        return _share(hinge, valid, everyone_valid)


def lifted_structured(z: Tensor, *, margin: float, valid: Tensor | None = None) -> Tensor:
    """Hold a positive pair together against all negatives of both its ends at once.

    Lifted structured embedding (arXiv:1511.06452, eq. 4): half the square of max(0, D_ij + log(sum
    of exp(margin - D_ik) + sum of exp(margin - D_jl))), D the Euclidean distance of unit vectors.

    Args:
        z: Projections of two views, (2, B, D), any float dtype; need not be normalised.
        margin: Distance, > 0. Paper: 1.
        valid: (B,) bool, as above.

    Returns:
        Squared distance, mean over positive pairs.

    Raises:
        ValueError: as `nt_xent`, for the margin.
    """
    _check_two_views(z)
    _check_positive("margin", margin)
    with _float32(z):
        z = functional.normalize(z.float(), dim=-1)
        everyone, valid, everyone_valid, same = _meet(z, valid)
        reach = margin - _root(_squared_distances(z, everyone))  # (2, B, 2, W*B)
        reach = _without(reach, (same | ~everyone_valid)[None, :, None])
        negatives = reach.transpose(0, 1).flatten(1).logsumexp(-1)  # (B,)
        pair = (_root((z[0] - z[1]).square().sum(-1)) + negatives).relu().square() / 2
        return _share(pair, valid, everyone_valid)


def n_pairs(z: Tensor, *, norm_weight: float = 2e-3, valid: Tensor | None = None) -> Tensor:
    """Classify each first view among the second views of the global batch, by inner products.

    Multi-class N-pair loss (Sohn 2016, eq. 6): cross entropy of inner products, lengths being
    bounded by a penalty and not by normalisation.

    Args:
        z: Projections of two views, (2, B, D), any float dtype.
        norm_weight: Weight of an embedding's mean squared length, >= 0.
        valid: (B,) bool, as above.

    Returns:
        Nats plus the penalty.

    Raises:
        ValueError: as `nt_xent`, for a negative weight.
    """
    _check_two_views(z)
    if norm_weight < 0:
        raise ValueError(f"norm_weight must be >= 0, got {norm_weight}")
    with _float32(z):
        z, valid = z.float(), _all_valid(z, valid)
        penalty = _share(norm_weight * z.square().sum(-1), valid, gather(valid))
        return _cross_entropy(z[0], z[1], valid) + penalty


def soft_nearest_neighbour(z: Tensor, *, temperature: float, valid: Tensor | None = None) -> Tensor:
    """Have each embedding's nearest neighbour be its other view, softly.

    Soft nearest neighbour loss (Salakhutdinov & Hinton 2007; arXiv:1902.01889, eq. 1) with squared
    Euclidean distances of embeddings as they are. On unit vectors it is `nt_xent` at half the
    temperature.

    Args:
        z: Projections of two views, (2, B, D), any float dtype.
        temperature: Divides the squared distances, > 0; after batch norm 2 * D is the distance of
            unrelated embeddings.
        valid: (B,) bool, as above.

    Returns:
        Nats.

    Raises:
        ValueError: as `nt_xent`.
    """
    _check_two_views(z)
    _check_positive("temperature", temperature)
    with _float32(z):
        z = z.float()
        everyone, valid, everyone_valid, same = _meet(z, valid)
        logits = -_squared_distances(z, everyone) / temperature  # (2, B, 2, W*B)
        logits = _without(logits, _itself(same) | ~everyone_valid)
        positive = -(z[0] - z[1]).square().sum(-1) / temperature  # (B,)
        return _share(logits.flatten(2).logsumexp(-1) - positive, valid, everyone_valid)


def cross_view_entropy(targets: Tensor, log_predictions: Tensor) -> Tensor:
    """Compare what is predicted from every view of a sample with the targets that its other views
    give.

    DINO's eq. 3 (arXiv:2104.14294) and SwAV's eq. 6 (arXiv:2006.09882).

    Args:
        targets: Distributions from the first views, (U, B, K) float32 without gradient, U <= V.
        log_predictions: Logarithms of the distributions from all views in the same order, (V, B, K)
            float32, V >= 2.

    Returns:
        Cross entropy in nats, mean over the U * (V - 1) pairs of different views, (B,); at chance
        it is log K.
    """
    pairs = -torch.einsum("ubk,vbk->buv", targets, log_predictions)  # (B, U, V)
    own = pairs.diagonal(dim1=1, dim2=2).sum(-1)
    return (pairs.sum((1, 2)) - own) / (len(targets) * (len(log_predictions) - 1))


def _float32(z: Tensor) -> AbstractContextManager[None]:
    return torch.autocast(z.device.type, enabled=False)


def _check_two_views(z: Tensor) -> None:
    if z.ndim != 3 or z.shape[0] != 2:
        raise ValueError(f"z must be (2, B, D), one row per view; got {tuple(z.shape)}")
    num_global = z.shape[1] * world_size()
    if num_global < 2:
        raise ValueError(
            f"the global batch must hold at least 2 samples, got {num_global}: there is no negative"
        )


def _check_positive(name: str, value: float) -> None:
    if value <= 0:
        raise ValueError(f"{name} must be > 0, got {value}")


def _all_valid(z: Tensor, valid: Tensor | None) -> Tensor:
    return torch.ones(z.shape[-2], dtype=torch.bool, device=z.device) if valid is None else valid


def _meet(z: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gather z (2, W*B, D) and validity (W*B,); say which is whose sample (B, W*B)."""
    valid = _all_valid(z, valid)
    everyone = gather(z.transpose(0, 1)).transpose(0, 1)
    column = torch.arange(everyone.shape[1], device=z.device)
    row = torch.arange(z.shape[1], device=z.device) + rank() * z.shape[1]
    return everyone, valid, gather(valid), row.unsqueeze(1) == column


def _itself(same: Tensor) -> Tensor:
    """Expand from whose sample (B, W*B) to which view of it (2, B, 2, W*B)."""
    return (
        torch.eye(2, dtype=torch.bool, device=same.device)[:, None, :, None] & same[None, :, None]
    )


def _without(logits: Tensor, excluded: Tensor) -> Tensor:
    # Finite, as a row of -inf alone (no valid sample anywhere) would have a NaN gradient.
    return logits.masked_fill(excluded, torch.finfo(logits.dtype).min)


def _cross_entropy(
    queries: Tensor,
    keys: Tensor,
    valid: Tensor | None,
    decoys: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Find each query's key among everyone's valid keys and its own decoy, by inner products."""
    valid = _all_valid(queries, valid)
    everyone_valid = gather(valid)
    logits = _without(queries @ gather(keys).T, ~everyone_valid)  # (B, W*B)
    if decoys is not None:
        own = _without((queries * decoys[0]).sum(-1), ~decoys[1])
        logits = torch.cat([logits, own.unsqueeze(1)], dim=1)
    return _share(logits.logsumexp(-1) - (queries * keys).sum(-1), valid, everyone_valid)


def _log_mean_z(scores: Tensor, valid: Tensor) -> Tensor:
    """Log of the mean over the global batch's valid anchors of sum(exp(scores)), from (V, B, N)."""
    per_anchor = _without(scores.logsumexp(-1), ~valid)  # (V, B)
    total = gather(per_anchor.flatten().logsumexp(0, keepdim=True)).logsumexp(0)
    return total - (len(scores) * gather(valid).sum()).clamp(min=1).log()


def _squared_distances(z: Tensor, everyone: Tensor) -> Tensor:
    """Return squared Euclidean distances (V, B, W, G) of (V, B, D) and (W, G, D)."""
    inner = torch.einsum("vbd,wgd->vbwg", z, everyone)
    squares = z.square().sum(-1)[:, :, None, None] + everyone.square().sum(-1)
    return (squares - 2 * inner).relu()  # rounding alone makes it negative


def _root(squared: Tensor) -> Tensor:
    """Take the square root; its slope at zero is zero, not infinite."""
    least = torch.finfo(squared.dtype).eps
    return squared.clamp(min=least).sqrt().where(squared > least, 0.0)


def _share(per_anchor: Tensor, valid: Tensor, everyone_valid: Tensor) -> Tensor:
    """Average (B,) or (V, B) over the global batch, as explained at the top."""
    total = per_anchor.where(valid, 0.0).sum() * world_size()
    return total * len(valid) / per_anchor.numel() / everyone_valid.sum().clamp(min=1)
