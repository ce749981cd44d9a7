"""The random numbers of `augment.rng` on the CPU, compiled: the same integers, without an operation
for each step."""

import numpy as np

from augment.kernels.compiled import compiled

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # splitmix64, see augment.rng
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_30 = np.uint64(30)
_27 = np.uint64(27)
_31 = np.uint64(31)
_40 = np.uint64(40)


@compiled()
def hash_keys(
    name: int, epoch: np.ndarray, sample_id: np.ndarray, view: np.ndarray
) -> np.ndarray:  # pragma: no cover - compiled
    """Return `augment.rng.state` of (B,) int64 each, (B,) int64; `name` hashes seed and op."""
    hashed = np.empty(sample_id.size, np.int64)
    for row in range(hashed.size):
        word = _mix(np.uint64(name) + np.uint64(epoch[row]) * _GOLDEN)
        word = _mix(word + np.uint64(sample_id[row]) * _GOLDEN)
        hashed[row] = np.int64(_mix(word + np.uint64(view[row]) * _GOLDEN))
    return hashed


@compiled()
def expand(state: np.ndarray, num: int) -> np.ndarray:  # pragma: no cover - compiled
    """Return `augment.rng.uniform_of` of (B,) int64, (B, num) float32."""
    numbers = np.empty((state.size, num), np.float32)
    for row in range(state.size):
        word = np.uint64(state[row])
        for column in range(num):
            word += _GOLDEN
            numbers[row, column] = np.float32(_mix(word) >> _40) * np.float32(2**-24)
    return numbers


@compiled()
def _mix(x: np.uint64) -> np.uint64:  # pragma: no cover - compiled
    x = (x ^ (x >> _30)) * _MIX_1
    x = (x ^ (x >> _27)) * _MIX_2
    return x ^ (x >> _31)
