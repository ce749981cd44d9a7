"""Decides which of samples that are alike stays: in each group the largest picture, of equal ones
the largest file, then the first in the manifest. Whatever goes was compared with what stays for it.

Groups are not followed from neighbour to neighbour: in a chain of pictures that each resemble the
next, only those go that resemble one that stays.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

# Of pairs (P, 2) of indices, which are alike: (P,) bool.
Compare = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Duplicates:
    """What goes.

    Attributes:
        gone: (G,) index of each sample that goes, ascending.
        kept: (G,) index of the one that stays for it.
    """

    gone: np.ndarray
    kept: np.ndarray


def ranks(*keys: np.ndarray) -> np.ndarray:
    """Rank samples: the largest first key is 0, ties by the next keys; (n,) int64."""
    order = np.lexsort([-key for key in reversed(keys)])
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank


def decide(pairs: np.ndarray, rank: np.ndarray, compare: Compare) -> Duplicates:
    """Choose what stays of each group, round by round: of what hangs together, the best one stays,
    what is alike to it goes, and the others are looked at again.

    Args:
        pairs: (P, 2) indices of samples that are alike.
        rank: (n,) of all samples; the lowest stays.
        compare: For pairs that are not among these.
    """
    goes_for = np.full(len(rank), -1)
    while len(pairs):
        best = _best_of_group(pairs, rank)
        members = np.unique(pairs)
        others = members[best[members] != members]
        wanted = np.stack([others, best[others]], axis=1)
        known = np.isin(_keys(wanted), _keys(pairs))
        alike = known.copy()
        alike[~known] = compare(wanted[~known])
        goes_for[wanted[alike, 0]] = wanted[alike, 1]
        settled = np.zeros(len(rank), bool)
        settled[best[members]] = True
        settled[wanted[alike, 0]] = True
        pairs = pairs[~settled[pairs].any(1)]
    gone = np.flatnonzero(goes_for >= 0)
    return Duplicates(gone, goes_for[gone])


def _best_of_group(pairs: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Return for each sample the one of its group that ranks lowest, (n,)."""
    count = len(rank)
    ones = np.ones(len(pairs), np.int8)
    graph = coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    _, group = connected_components(graph, directed=False)
    order = np.lexsort([rank, group])
    first = np.searchsorted(group[order], np.arange(group.max() + 1))
    best: np.ndarray = order[first][group]
    return best


def _keys(pairs: np.ndarray) -> np.ndarray:
    """Return one number for each pair, whichever comes first."""
    low = pairs.min(1).astype(np.int64) if len(pairs) else np.empty(0, np.int64)
    high = pairs.max(1).astype(np.int64) if len(pairs) else np.empty(0, np.int64)
    keys: np.ndarray = (low << 32) + high
    return keys
