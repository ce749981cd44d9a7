"""Draws by keys that are NumPy columns: the numbers of `augment.rng` to the bit, without torch, for
tasks that have no tensors and would import it for nothing else."""

import hashlib
from functools import lru_cache

import numpy as np

from augment.kernels import hashing
from augment.kernels.crop import NUM_UNIFORMS
from augment.recipe import AnyViews, CropGroup


def uniform(
    num: int,
    *,
    seed: int,
    epoch: np.ndarray,
    sample_id: np.ndarray,
    view: int | np.ndarray,
    op: str,
) -> np.ndarray:
    """Draw uniform numbers for each sample, as `augment.rng.uniform` does.

    Args:
        num: Numbers per sample. A longer draw begins with the shorter one.
        seed: The run's seed, any integer.
        epoch: (B,) int64.
        sample_id: (B,) int64.
        view: Index of the view among all views of the sample; one for all rows, or (B,) int64.
        op: What the numbers are for; different names give independent numbers.

    Returns:
        (B, num) float32 in [0, 1), multiples of 2^-24.
    """
    return uniform_of(state(seed=seed, epoch=epoch, sample_id=sample_id, view=view, op=op), num)


def state(
    *, seed: int, epoch: np.ndarray, sample_id: np.ndarray, view: int | np.ndarray, op: str
) -> np.ndarray:
    """Hash the key of a draw, for numbers that are wanted later: `uniform` without the numbers,
    (B,) int64."""
    views = np.broadcast_to(np.asarray(view, np.int64), sample_id.shape)
    columns = (_column(key) for key in (epoch, sample_id, views))
    hashed: np.ndarray = hashing.hash_keys(hash_name(f"{seed}/{op}"), *columns)
    return hashed


def uniform_of(state: np.ndarray, num: int) -> np.ndarray:
    """Expand `state` (B,) to (B, num) float32 uniform in [0, 1); see `uniform`."""
    numbers: np.ndarray = hashing.expand(_column(state), num)
    return numbers


def _column(key: np.ndarray) -> np.ndarray:
    """Lay out a key as the kernels take it: they would be compiled again for strided arrays, and
    for those that cannot be written to, as Arrow's are."""
    return np.require(key, np.int64, ["C", "W"])


@lru_cache(maxsize=1024)
def hash_name(name: str) -> int:
    """Turn a name into an int64 that is the same in every process, unlike `hash`."""
    return int.from_bytes(
        hashlib.blake2b(name.encode(), digest_size=8).digest(), "little", signed=True
    )


def view_keys(
    views: AnyViews, name: str, epoch: np.ndarray, sample_id: np.ndarray
) -> dict[str, np.ndarray]:
    """Return `epoch`, `sample_id` and `view` of each of a group's B * V rows, view by view of a
    sample: `augment.sample.row_keys` of columns."""
    count = views.groups[name].count
    view = views.first_view(name) + np.arange(count)
    return {
        "epoch": np.repeat(epoch, count),
        "sample_id": np.repeat(sample_id, count),
        "view": np.tile(view, len(sample_id)),
    }


def crop_uniforms(
    *, seed: int, epoch: np.ndarray, sample_id: np.ndarray, view: int | np.ndarray
) -> np.ndarray:
    """Return the numbers of which `augment.kernels.crop.draw_box` makes boxes, a row an image."""
    return uniform(NUM_UNIFORMS, seed=seed, epoch=epoch, sample_id=sample_id, view=view, op="crop")


def crop_bounds(group: CropGroup) -> np.ndarray:
    """Return what `augment.kernels.crop.draw_box` takes of a recipe."""
    return np.array([*group.scale, *group.ratio, group.flip], np.float64)
