"""Draws validation from the training samples: by group where there is one, keeping every class in
training."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence


def draw_validation(
    names: Sequence[str],
    groups: Sequence[str | None],
    labels: Sequence[Sequence[str]],
    *,
    fraction: float,
    seed: int,
) -> list[bool]:
    """Choose about a fraction of every class, by hashes of a seed and the names of groups or
    samples.

    The order of samples, the machine and the folder play no role. A group goes as a whole, and only
    where each of its classes keeps a sample in training.

    Args:
        names: Of samples, below their source.
        groups: Of samples; None: the sample is its own.
        labels: Classes of each sample; none where labels are masks or boxes.
        fraction: In [0, 1).
        seed: Another one gives another draw.

    Returns:
        Whether each sample is for validation. With a fraction above 0 at least one is, where a
        sample can be spared.
    """
    units: dict[str, list[int]] = defaultdict(list)
    for index, (name, group) in enumerate(zip(names, groups, strict=True)):
        units[f"sample\0{name}" if group is None else f"group\0{group}"].append(index)
    kinds = [list(one) or [""] for one in labels]
    left = Counter(kind for one in kinds for kind in one)
    # Rounded by a hash: three samples a class still give a tenth of the samples.
    wanted = {
        kind: int(fraction * count + _hash(seed, "class", kind)) for kind, count in left.items()
    }
    drawn = [False] * len(names)
    order = sorted(units, key=lambda unit: _hash(seed, "unit", unit))
    for unit in order if fraction else ():
        counts = Counter(kind for index in units[unit] for kind in kinds[index])
        fits = sum(min(count, max(wanted[kind], 0)) for kind, count in counts.items())
        spared = all(left[kind] > count for kind, count in counts.items())
        if spared and 2 * fits >= counts.total():
            for index in units[unit]:
                drawn[index] = True
            left.subtract(counts)
            for kind, count in counts.items():
                wanted[kind] -= count
    if fraction and not any(drawn):
        drawn = _one_unit(drawn, order, units, kinds, left)
    return drawn


def _one_unit(
    drawn: list[bool],
    order: list[str],
    units: dict[str, list[int]],
    kinds: list[list[str]],
    left: Counter[str],
) -> list[bool]:
    """Draw the first unit that can be spared."""
    for unit in order:
        counts = Counter(kind for index in units[unit] for kind in kinds[index])
        if all(left[kind] > count for kind, count in counts.items()):
            chosen = set(units[unit])
            return [index in chosen for index in range(len(drawn))]
    return drawn


def _hash(seed: int, what: str, name: str) -> float:
    """Hash a name to [0, 1)."""
    key = f"{seed}\0{what}\0{name}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") / 2**64
