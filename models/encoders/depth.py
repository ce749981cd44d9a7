"""How deep in its encoder a parameter lies, for learning rates that fall towards the pixels."""

import re

from torch import nn

from models.encoders.encoder import Encoder
from models.encoders.split import SplitEncoder

_NUMBERED = re.compile(r"(?:\w+_)?\d+")


def layers_of(encoder: Encoder) -> dict[str, int]:
    """Number the layers of an encoder: name of a parameter to its layer, 0 next to the pixels.

    Networks of timm say themselves what a layer is. In others it is a numbered block, as `layer1.0`
    of a ResNet; what comes before the first one belongs to layer 0, what comes after the last one
    to that.

    Raises:
        ValueError: no layers can be told apart.
    """
    if isinstance(encoder, SplitEncoder):  # the halves lie side by side
        halves = {"lightness": encoder.lightness, "colour": encoder.colour}
        return {
            f"{half}.{name}": layer
            for half, part in halves.items()
            for name, layer in layers_of(part).items()
        }
    core = encoder.get_submodule(encoder.core)
    layers = _as_timm_says(core) if hasattr(core, "group_matcher") else _numbered_blocks(core)
    if len(set(layers.values())) < 2:
        raise ValueError(
            f"start.layer_decay has no layers to tell apart in encoder.name={encoder.name}: leave"
            " it at 1, and take no probe.trained=blocks"
        )
    prefix = f"{encoder.core}." if encoder.core else ""
    return {prefix + name: layer for name, layer in layers.items()}


def _as_timm_says(core: nn.Module) -> dict[str, int]:
    from timm.models import group_parameters  # here, as timm takes seconds to import

    matcher = core.group_matcher(coarse=False)  # type: ignore[operator]
    layers: dict[str, int] = group_parameters(core, matcher, reverse=True)
    return layers


def _numbered_blocks(core: nn.Module) -> dict[str, int]:
    """Number the blocks in the order in which the network registers them."""
    layers = dict[str, int]()
    block: str | None = None
    layer = 0
    for name, parameter in core.named_parameters():
        own = _block_of(name)
        # A norm between two convolutions is no layer: it goes with the one before it.
        if own is not None and own != block and parameter.ndim > 1:
            layer += 1
            block = own
        layers[name] = layer
    first = min(layers.values(), default=0)
    return {name: layer - first for name, layer in layers.items()}


def _block_of(name: str) -> str | None:
    """Return the path of a parameter up to its first run of numbers; None where it has none."""
    words = name.split(".")
    numbered = [index for index, word in enumerate(words) if _NUMBERED.fullmatch(word)]
    if not numbered:
        return None
    last = numbered[0]
    while last + 1 in numbered:
        last += 1
    return ".".join(words[: last + 1])
