"""Finds what belongs to an image by its path: a mask, or an entry of a COCO file."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

NONE = -1
SEVERAL = -2


def pair_paths(
    images: Sequence[str], identities: Sequence[int], things: Sequence[str]
) -> np.ndarray:
    """Find for each image the thing of its path.

    The paths are equal, or one is how the other ends: `train/a/1` and `a/1`, in either direction.
    Never are they equal in their last parts only: the `1` of one folder is not that of another.

    Args:
        images: Paths of the images of all sets.
        identities: Which file each is: the same one may be in two sets.
        things: Paths of the things.

    Returns:
        (N,) int64 index of the thing; `NONE`; or `SEVERAL` where there are several, or where
            several files would have the same.
    """
    by_path: dict[str, list[int]] = defaultdict(list)
    by_end: dict[str, list[int]] = defaultdict(list)
    for index, thing in enumerate(things):
        by_path[thing].append(index)
        for tail in _tails(thing):
            by_end[tail].append(index)
    found = np.array([_find(image, by_path, by_end) for image in images], dtype=np.int64)
    owners: dict[int, set[int]] = defaultdict(set)
    for thing_index, identity in zip(found.tolist(), identities, strict=True):
        owners[thing_index].add(identity)
    shared = [index for index, files in owners.items() if index >= 0 and len(files) > 1]
    return np.where(np.isin(found, shared), SEVERAL, found)


def _find(image: str, by_path: dict[str, list[int]], by_end: dict[str, list[int]]) -> int:
    candidates = by_path.get(image) or next(
        (by_path[tail] for tail in _tails(image) if tail in by_path), by_end.get(image, [])
    )
    if not candidates:
        return NONE
    return candidates[0] if len(candidates) == 1 else SEVERAL


def _tails(path: str) -> list[str]:
    """Return a path without its first folder, its first two, and so on."""
    parts = path.split("/")
    return ["/".join(parts[start:]) for start in range(1, len(parts))]


def stem(name: str) -> str:
    """Return a path without its suffix."""
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.rpartition('.')[0] or last}"
