"""Random numbers that are a function of what they are for, not of when or where they are drawn."""

import math

import torch
from torch import Tensor

from augment import column_draws

# splitmix64 (Steele, Lea & Flood, OOPSLA 2014), its constants as int64 because torch has no uint64
# arithmetic.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64


def uniform(
    num: int, *, seed: int, epoch: Tensor, sample_id: Tensor, view: int | Tensor, op: str
) -> Tensor:
    """Draw uniform numbers for each sample, keyed by everything that may change them and by nothing
    else.

    A row depends on its own `(seed, epoch, sample_id, view, op)` only: not on the other rows, their
    order, the worker or the device. Integer arithmetic throughout, so CPU and GPU agree to the bit;
    nothing waits for the device.

    Args:
        num: Numbers per sample. A longer draw begins with the shorter one.
        seed: The run's seed, any integer.
        epoch: (B,) int64.
        sample_id: (B,) int64, on epoch's device.
        view: Index of the view among all views of the sample; one for all rows, or (B,) int64.
        op: What the numbers are for; different names give independent numbers.

    Returns:
        (B, num) float32 in [0, 1), multiples of 2^-24, on sample_id's device.
    """
    return uniform_of(state(seed=seed, epoch=epoch, sample_id=sample_id, view=view, op=op), num)


def state(*, seed: int, epoch: Tensor, sample_id: Tensor, view: int | Tensor, op: str) -> Tensor:
    """Hash the key of a draw, for numbers that are wanted later: `uniform` without the numbers,
    (B,) int64."""
    if sample_id.device.type == "cpu" and not torch.compiler.is_compiling():
        # A draw of few samples is a hundred small operations, and those were a twentieth of a
        # decode task's time.
        drawn = column_draws.state(
            seed=seed,
            epoch=epoch.numpy(),
            sample_id=sample_id.numpy(),
            view=view.numpy() if isinstance(view, Tensor) else view,
            op=op,
        )
        return torch.from_numpy(drawn)
    return _state_of_tensors(f"{seed}/{op}", epoch, sample_id, view)


def _state_of_tensors(name: str, epoch: Tensor, sample_id: Tensor, view: int | Tensor) -> Tensor:
    # no torch.tensor(view, device=...): that copy waits for the device
    views = torch.zeros_like(sample_id) + view
    hashed: Tensor = torch.zeros_like(sample_id) + _hash_name(name)
    for word in (epoch, sample_id, views):
        hashed = _mix(hashed + word * _GOLDEN)
    return hashed


def uniform_of(state: Tensor, num: int) -> Tensor:
    """Expand `state` (B,) to (B, num) float32 uniform in [0, 1); see `uniform`."""
    if state.device.type == "cpu" and not torch.compiler.is_compiling():
        return torch.from_numpy(column_draws.uniform_of(state.numpy(), num))
    return _uniform_of_tensor(state, num)


def normal_of(state: Tensor, num: int) -> Tensor:
    """Expand `state` (B,) to (B, num) float32 normal numbers, by Box and Muller's transform."""
    u = uniform_of(state, 2 * num)
    radius = (1 - u[:, ::2]).log().mul(-2).sqrt()
    return radius * (u[:, 1::2] * (2 * math.pi)).cos()


def _uniform_of_tensor(state: Tensor, num: int) -> Tensor:
    counter = torch.arange(1, num + 1, device=state.device)
    bits = _mix(state[:, None] + counter * _GOLDEN)  # (B, num)
    return _shift_right(bits, 40).float() * 2**-24


def _mix(x: Tensor) -> Tensor:
    """Scramble each int64 one-to-one, so that every input bit flips every output bit half of the
    time."""
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, num_bits: int) -> Tensor:
    """Shift as if x were unsigned; torch's `>>` on int64 copies the sign bit."""
    return torch.bitwise_and(x >> num_bits, 2 ** (64 - num_bits) - 1)


def let_compile() -> None:
    """Have `torch.compile` take draws without a break; this imports it, which takes seconds."""
    torch.compiler.assume_constant_result(_hash_name)


def _hash_name(name: str) -> int:
    return column_draws.hash_name(name)
