"""Orders of tiles that differ from one another as much as they can."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


@lru_cache(maxsize=4)
def distant_permutations(num_items: int, count: int) -> Tensor:
    """Choose permutations of great Hamming distance, one after another (arXiv:1603.09246).

    The first keeps the order. Each further one has the greatest distance to the nearest of those
    chosen, among equals the greatest sum of distances to all of them, among equals the first in
    lexicographic order: nothing is drawn. Beside the table of all permutations (9! columns of 9
    bytes) only two numbers a permutation are kept. The paper begins at random and looks at the sum
    alone.

    Args:
        num_items: Items n of a permutation, at most 9.
        count: How many are chosen, at most n!.

    Returns:
        (count, n) int64: item k of the new order is item [k] of the old one.

    Raises:
        ValueError: there are fewer permutations.
    """
    every = _all_permutations(num_items)
    num = every.shape[1]
    if not 0 < count <= num:
        raise ValueError(f"{num_items} items have {num} permutations, {count} cannot be chosen")
    chosen = [0]
    nearest = np.full(num, num_items + 1, np.uint8)
    total = np.zeros(num, np.int32)
    while len(chosen) < count:
        distance = np.zeros(num, np.uint8)
        for items in every:
            distance += items != items[chosen[-1]]
        nearest = np.minimum(nearest, distance)  # 0 for those chosen
        total += distance
        furthest = np.flatnonzero(nearest == nearest.max())
        chosen.append(int(furthest[total[furthest].argmax()]))
    return torch.from_numpy(every[:, chosen].T.astype(np.int64))


def _all_permutations(num_items: int) -> np.ndarray:
    """Return all permutations in lexicographic order, (n, n!) uint8."""
    table = np.zeros((0, 1), np.uint8)
    for size in range(1, num_items + 1):
        # after a first item f, those of the rest that are not below f move up by one
        first = np.arange(size, dtype=np.uint8).repeat(table.shape[1])
        rest = np.tile(table, size)
        table = np.vstack([first, rest + (rest >= first)])
    return table
