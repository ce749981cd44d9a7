"""Balances a corpus over its clusters: so many samples are shared out alike from the top level of
clusters down, none getting more than it has (arXiv:2405.15613, section 3.3)."""

import numpy as np
import torch

from augment import rng


def share(capacity: np.ndarray, total: int) -> np.ndarray:
    """Share a number out as evenly as capacities allow.

    Args:
        capacity: (n,) int64.
        total: What is shared; beyond the sum of the capacities, all of them are filled.

    Returns:
        (n,) int64; two that are not full differ by 1 at most.
    """
    order = np.argsort(capacity, kind="stable")
    given = np.zeros(len(capacity), np.int64)
    left = min(total, int(capacity.sum()))
    for number, index in enumerate(order):
        given[index] = min(int(capacity[index]), left // (len(order) - number))
        left -= int(given[index])
    # what rounding leaves goes to those with room, the first in order
    room = np.flatnonzero(given < capacity)[:left]
    given[room] += 1
    return given


def quotas(sizes: np.ndarray, parents: tuple[np.ndarray, ...], total: int) -> np.ndarray:
    """Say how many samples of each lowest cluster are taken.

    Args:
        sizes: (K,) int64, samples of the lowest clusters.
        parents: Of each level above, the cluster there of each cluster below it.
        total: Samples in all.
    """
    levels = [sizes]
    for parent in parents:
        counted = np.bincount(parent, weights=levels[-1], minlength=int(parent.max()) + 1)
        levels.append(counted.round().astype(np.int64))
    given = share(levels[-1], total)
    for parent, below in zip(reversed(parents), reversed(levels[:-1]), strict=True):
        shares = np.zeros(len(below), np.int64)
        for cluster, count in enumerate(given.tolist()):
            members = np.flatnonzero(parent == cluster)
            shares[members] = share(below[members], count)
        given = shares
    return given


def chosen(sample_ids: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Choose samples of one cluster by keyed hashes, so that it does not depend on their order.

    Returns:
        Which are taken, (n,) bool.
    """
    ids = torch.from_numpy(np.ascontiguousarray(sample_ids))
    keys = rng.uniform(
        1, seed=seed, epoch=torch.zeros_like(ids), sample_id=ids, view=0, op="balance"
    )
    order = np.lexsort([sample_ids, keys[:, 0].numpy()])
    taken = np.zeros(len(sample_ids), bool)
    taken[order[:count]] = True
    return taken


def at_top(sizes: np.ndarray, parents: tuple[np.ndarray, ...]) -> np.ndarray:
    """Add up the samples of the lowest clusters in those of the top level."""
    for parent in parents:
        sizes = np.bincount(parent, weights=sizes, minlength=int(parent.max()) + 1)
    return sizes


def evenness(sizes: np.ndarray) -> float:
    """Measure how evenly samples lie in clusters: the entropy over that of equal clusters, 0 to 1;
    1 for one cluster."""
    if len(sizes) < 2 or not sizes.sum():
        return 1.0
    shares = sizes[sizes > 0] / sizes.sum()
    return float(-(shares * np.log(shares)).sum() / np.log(len(sizes)))
