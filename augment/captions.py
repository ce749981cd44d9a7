"""A view's draws in words short enough to stand below its picture."""

from torch import Tensor

from augment.recipe import CropGroup
from augment.sample import JITTER_OPS, CropDraws


def captions(group: CropGroup, crops: CropDraws, draws: dict[str, Tensor]) -> list[str]:
    """Say what was drawn for each view: the crop, the flip, then each change that is applied.

    Args:
        group: Recipe of the views.
        crops: Their boxes, of B views.
        draws: `augment.sample.sample_photometric` of the same recipe and views.

    Returns:
        B captions. A jitter is given in its order, two a line: `c0.81 h+0.02` is the contrast, then
            the hue.
    """
    said = []
    for index, (top, left, height, width, flip) in enumerate(crops.boxes()):
        lines = [f"{width}x{height}+{left}+{top}", *(["flip"] if flip else [])]
        lines += [
            _change(group, op, draws, index)
            for op in group.changes()
            if draws[f"{op}.apply"][index]
        ]
        said.append("\n".join(lines))
    return said


def _jitter(group: CropGroup, draws: dict[str, Tensor], index: int) -> str:
    parts = []
    for place in draws["color_jitter.order"][index].tolist():
        name = JITTER_OPS[place]
        if getattr(group.color_jitter, name) > 0:
            amount = draws[f"color_jitter.{name}"][index].item()
            parts.append(f"{name[0]}{amount:+.2f}" if name == "hue" else f"{name[0]}{amount:.2f}")
    return "\n".join(" ".join(parts[start : start + 2]) for start in range(0, len(parts), 2))


def _change(group: CropGroup, op: str, draws: dict[str, Tensor], index: int) -> str:
    """Name a change and its numbers; a key of further draws is left out."""
    if op == "color_jitter":
        return _jitter(group, draws, index)
    names = [
        name
        for name in draws
        if name.startswith(f"{op}.") and not name.endswith((".apply", ".state"))
    ]
    numbers = [number for name in names for number in draws[name][index].flatten().tolist()]
    return " ".join([op.replace("_", " "), *(f"{number:.3g}" for number in numbers)])
