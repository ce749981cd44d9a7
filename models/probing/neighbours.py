"""Nearest neighbours: whose labels are voted by, for images as for patches."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

_ROWS = 65_536  # features compared at once: similarities take chunk * 65_536 * 4 bytes


@torch.no_grad()
def knn_votes(
    train_x: Tensor,
    targets: Tensor,
    test_x: Tensor,
    *,
    ks: Sequence[int],
    temperature: float = 0.07,
    num_classes: int,
    chunk: int = 512,
) -> Tensor:
    """Let the k nearest training features vote, with weight exp(cosine similarity / temperature).

    Instance discrimination's classifier (arXiv:1805.01978, section 3.4), for several k in one
    search. Memory beside the answer is bounded by `chunk`, whatever the number of features.

    Args:
        train_x: Features, (N, D), any float dtype; need not be normalised.
        targets: Their classes, (N,) int64 in [0, num_classes); or the share of each class, (N, C),
            of which several may be 1.
        test_x: Features to classify, (M, D), on the device of `train_x`.
        ks: Neighbours that vote, each in 1..N. Paper: 200.
        temperature: Divides the similarities, > 0. Paper: 0.07.
        num_classes: C.
        chunk: Test rows classified at once; 512 take 128 MiB.

    Returns:
        The share of the votes that each class has, (len(ks), M, C) float32.

    Raises:
        ValueError: k, temperature or a class out of range, or shapes that do not fit.
    """
    check_features(train_x, targets, test_x, num_classes)
    if not ks or not 1 <= min(ks) <= max(ks) <= len(train_x):
        raise ValueError(
            f"k must be in 1..{len(train_x)}, the number of training features; got {list(ks)}"
        )
    if temperature <= 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    told = torch.empty(len(ks), len(test_x), num_classes, device=test_x.device)
    start = 0
    for similarity, index in nearest(train_x, test_x, k=max(ks), chunk=chunk):
        # exp(s / T) itself overflows at small T
        weight = ((similarity - similarity[:, :1]) / temperature).exp()
        votes = weight.new_zeros(len(weight), num_classes)
        counted = 0
        for place in sorted(range(len(ks)), key=lambda one: ks[one]):
            part = slice(counted, ks[place])
            _add_votes(votes, targets, index[:, part], weight[:, part])
            counted = ks[place]
            share = votes / weight[:, :counted].sum(1, keepdim=True)
            told[place, start : start + len(weight)] = share
        start += len(weight)
    return told


def _add_votes(votes: Tensor, targets: Tensor, index: Tensor, weight: Tensor) -> None:
    if targets.ndim == 1:
        votes.scatter_add_(1, targets[index], weight)
        return
    for one in range(index.shape[1]):  # (M, k, C) at once would be large
        votes += weight[:, one : one + 1] * targets[index[:, one]]


@torch.no_grad()
def nearest(
    train_x: Tensor, test_x: Tensor, *, k: int, chunk: int = 512
) -> Iterator[tuple[Tensor, Tensor]]:
    """Find the k most similar training features of each test feature, best first.

    Yields:
        Cosine similarities and indices of `train_x`, both (chunk, k), for `chunk` rows of `test_x`
            at a time.
    """
    blocks = functional.normalize(train_x.float(), dim=-1).split(_ROWS)
    for query in functional.normalize(test_x.float(), dim=-1).split(chunk):
        similarity = query.new_empty(len(query), 0)
        index = torch.empty(len(query), 0, dtype=torch.int64, device=query.device)
        start = 0
        for block in blocks:
            found, place = (query @ block.T).topk(min(k, len(block)), dim=1)
            kept = min(k, similarity.shape[1] + found.shape[1])
            similarity, order = torch.cat([similarity, found], 1).topk(kept, dim=1)
            index = torch.cat([index, place + start], 1).gather(1, order)
            start += len(block)
        yield similarity, index


def check_features(train_x: Tensor, targets: Tensor, test_x: Tensor, num_classes: int) -> None:
    """Refuse features and targets that do not fit.

    Raises:
        ValueError: with what does not.
    """
    if train_x.ndim != 2 or test_x.ndim != 2 or train_x.shape[1] != test_x.shape[1]:
        raise ValueError(
            f"features must be (N, D) and (M, D), got {tuple(train_x.shape)} and"
            f" {tuple(test_x.shape)}"
        )
    fits = targets.shape in ((len(train_x),), (len(train_x), num_classes))
    if not fits or not len(targets):
        raise ValueError(
            f"targets must be ({len(train_x)},) or ({len(train_x)}, {num_classes}) with at least"
            f" one row, got {tuple(targets.shape)}"
        )
    if targets.ndim == 1 and not 0 <= int(targets.min()) <= int(targets.max()) < num_classes:
        raise ValueError(
            f"targets must be in 0..{num_classes - 1}, got"
            f" {int(targets.min())}..{int(targets.max())}"
        )
