"""Draws of a few labelled samples, the same for every encoder that is judged by them."""

import numpy as np
from numpy.typing import NDArray


def wanted_of(setting: str | int, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many samples of each class a setting asks for, (C,).

    Args:
        setting: A number a class, or a share of every class such as "10%": at least one.
        counts: Samples of each class, (C,).

    Raises:
        ValueError: the setting is none, or a class has fewer.
    """
    share = share_of(setting)
    if share is None:
        if int(setting) > counts.min():
            raise ValueError(
                f"{setting} samples of each class are more than the {counts.min()} of the smallest"
            )
        return np.full(len(counts), int(setting))
    return np.minimum(counts, np.maximum(1, np.round(share * counts))).astype(np.int64)


def share_of(setting: str | int) -> float | None:
    """Return the share that a setting such as "10%" asks for; None of a number a class.

    Raises:
        ValueError: it is neither.
    """
    text = str(setting).strip()
    number = text.removesuffix("%").strip()
    try:
        value = float(number)
    except ValueError:
        value = float("nan")
    if text.endswith("%") and 0 < value <= 100:
        return value / 100
    if not text.endswith("%") and value >= 1 and value == int(value):
        return None
    raise ValueError(f"must be a share such as 10% or a number a class such as 5, got {setting!r}")


def draw_few(
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    wanted: NDArray[np.int64],
    *,
    seed: int,
) -> NDArray[np.int64]:
    """Draw so many samples of every class, from as many groups as there are.

    A class's first samples are of different groups, then each group gives a second one, and so on:
    frames of one video are one label more than a label. Of one seed, a larger draw holds the
    smaller ones.

    Args:
        labels: Class of each sample, (N,) in 0..C - 1.
        groups: Group of each sample, (N,).
        wanted: Samples of each class, (C,).
        seed: Another one gives another draw.

    Returns:
        Indices, ascending.

    Raises:
        ValueError: a class has fewer samples.
    """
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    turn = _turns(labels[shuffled], groups[shuffled])
    # by class, then by whose turn it is; equal ones stay shuffled
    order = shuffled[np.lexsort((turn, labels[shuffled]))]
    counts = np.bincount(labels, minlength=len(wanted))
    if (wanted > counts).any():
        short = int(np.argmax(wanted > counts))
        raise ValueError(f"class {short} has {counts[short]} samples, {wanted[short]} are wanted")
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    drawn: NDArray[np.int64] = np.sort(order[place < wanted[labels[order]]])
    return drawn


def _turns(labels: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many samples of the same class and group stand before each."""
    order = np.lexsort((groups, labels))  # stable
    fresh = np.ones(len(order), bool)
    fresh[1:] = (np.diff(labels[order]) != 0) | (np.diff(groups[order]) != 0)
    start = np.maximum.accumulate(np.where(fresh, np.arange(len(order)), 0))
    turns = np.empty(len(order), np.int64)
    turns[order] = np.arange(len(order)) - start
    return turns
