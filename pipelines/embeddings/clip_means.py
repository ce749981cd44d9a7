"""Averages what is known of several clips of a video."""

import numpy as np


def means(values: np.ndarray, owner: np.ndarray, count: int) -> np.ndarray:
    """Average what is known of the clips of each sample.

    Args:
        values: (m, D), of each clip.
        owner: (m,) its sample.
        count: n samples.

    Returns:
        (n, D) float32; 0 of a sample without clips.
    """
    total = np.zeros((count, values.shape[1]), np.float32)
    np.add.at(total, owner, values)
    return total / np.maximum(np.bincount(owner, minlength=count), 1).astype(np.float32)[:, None]
