"""Retrieval: how well the nearest features are of the same class."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Retrieved:
    """What queries found in a gallery.

    Attributes:
        average_precision: Of each query, (M,) float64; NaN where nothing in the gallery is
            relevant.
        hits: Whether any of the k nearest is relevant, (len(ks), M) bool.
    """

    average_precision: Tensor
    hits: Tensor


@dataclass(frozen=True)
class Items:
    """Features that query, or are found.

    Attributes:
        x: (N, D), any float dtype; need not be normalised.
        targets: Their classes, (N,) int64, or which classes each has, (N, C) bool.
        content: Hash of each one's bytes, (N,) int64.
    """

    x: Tensor
    targets: Tensor
    content: Tensor


@torch.no_grad()
def retrieve(queries: Items, gallery: Items, *, ks: tuple[int, ...], chunk: int = 256) -> Retrieved:
    """Rank a gallery by cosine similarity to each query; what shares a class with it is relevant.

    Items of the query's own bytes are left out: itself, and copies. Of equal similarities the least
    favourable order counts.

    Args:
        queries: M of them.
        gallery: N of them.
        ks: Lengths of the answers, each >= 1.
        chunk: Queries at once: they take chunk * N * 40 bytes or so.
    """
    found = functional.normalize(gallery.x.float(), dim=-1)
    precision = []
    hits = []
    parts = (queries.x.split(chunk), queries.targets.split(chunk), queries.content.split(chunk))
    for x, targets, content in zip(*parts, strict=True):
        similarity = functional.normalize(x.float(), dim=-1) @ found.T  # (chunk, N)
        same = content[:, None] == gallery.content[None]
        relevant = _relevant(targets, gallery.targets) & ~same
        similarity = similarity.masked_fill(same, -torch.inf)  # last, where it costs nothing
        ranked = _ranked(similarity, relevant)
        precision.append(_average_precision(ranked))
        within = ranked.cumsum(1)
        last = within.shape[1] - 1
        hits.append(torch.stack([within[:, min(k - 1, last)] > 0 for k in ks]))
    return Retrieved(torch.cat(precision), torch.cat(hits, 1))


def _relevant(targets: Tensor, others: Tensor) -> Tensor:
    if targets.ndim == 1:
        return targets[:, None] == others[None]
    return (targets.float() @ others.float().T) > 0


def _ranked(similarity: Tensor, relevant: Tensor) -> Tensor:
    """Order what is relevant by similarity, best first; of equals, the irrelevant first."""
    pessimistic = relevant.to(torch.uint8).argsort(dim=1, stable=True)
    order = similarity.gather(1, pessimistic).argsort(dim=1, descending=True, stable=True)
    return relevant.gather(1, pessimistic.gather(1, order))


def _average_precision(ranked: Tensor) -> Tensor:
    place = torch.arange(1, ranked.shape[1] + 1, device=ranked.device, dtype=torch.float64)
    precision = ranked.cumsum(1) / place
    return (precision * ranked).sum(1) / ranked.sum(1)
