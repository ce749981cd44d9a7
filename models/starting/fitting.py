"""Weights from elsewhere into an encoder: which tensors fit, which are resampled, which are not."""

import contextlib
import io
import math
import sys
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.encoders.encoder import Encoder
from models.encoders.factory import EncoderConfig, build_encoder
from models.starting.key_layouts import LAYOUTS, VIDEO_POSITIONS, Layout, parts
from models.starting.weight_files import read_weights

_KERNEL = "patch_embed.proj.weight"
_POSITIONS = "pos_embed"
_TORCHVISION_POSITIONS = "encoder.pos_embedding"
_MOST_PREFIX_TOKENS = 8
_SHOWN = 3
# What converters raise on files that are not theirs.
_CONVERTERS_RAISE = (
    RuntimeError,
    AttributeError,
    KeyError,
    IndexError,
    TypeError,
    ValueError,
    AssertionError,
)


@dataclass(frozen=True)
class Fit:
    """How the weights of a file fit an encoder. Counters of batch norm are not counted.

    Attributes:
        weights: URI of the file.
        layout: How it names its tensors.
        prefix: What stands before the names of the part that was taken.
        taken: The encoder's tensors that were copied.
        resampled: Those that were computed from a tensor of another shape: position and patch
            embeddings.
        missing: Those that stay random, each with the reason.
        left_over: Tensors of the file that were not used.
        tensor_share: Share of the encoder's tensors that are no longer random, in 0..1.
        value_share: The same of their values.
    """

    weights: str
    layout: str
    prefix: str
    taken: tuple[str, ...]
    resampled: tuple[str, ...]
    missing: dict[str, str]
    left_over: tuple[str, ...]
    tensor_share: float
    value_share: float

    def line(self) -> str:
        """Say in one line what was taken."""
        below = f" below {self.prefix}" if self.prefix else ""
        named = f" ({_some(list(self.missing))})" if self.missing else ""
        return (
            f"encoder.weights {self.weights}{below} ({self.layout}): {len(self.taken)} tensors"
            f" taken, {len(self.resampled)} resampled, {len(self.missing)} missing{named},"
            f" {len(self.left_over)} left over; {self.value_share:.1%} of the encoder's values"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return all names, for JSON."""
        return asdict(self)


def starting_encoder(config: EncoderConfig, image_size: int) -> tuple[Encoder, Fit | None]:
    """Build the encoder that training starts from: random, or with the weights of a file.

    Args:
        config: What to build, and the weights' URI where there is one.
        image_size: Side of the images, pixels.

    Returns:
        The encoder in training mode, on the CPU, and how the weights fit; None without weights.

    Raises:
        ValueError: as `build_encoder` and `read_weights`, or fewer of its tensors than
            `config.min_share` can be filled.
    """
    encoder = build_encoder(config, image_size)
    if config.weights is None:
        return encoder, None
    fit = fit_weights(encoder, read_weights(config.weights), config.weights)
    if min(fit.tensor_share, fit.value_share) < config.min_share:
        raise ValueError(_refusal(fit, config))
    return encoder, fit


def fit_weights(encoder: Encoder, tensors: Mapping[str, Tensor], weights: str) -> Fit:
    """Copy what fits of a file's tensors into an encoder.

    Args:
        encoder: Its weights are overwritten in place.
        tensors: By dotted names, as `read_weights` gives them.
        weights: Where they come from, for the messages.

    Raises:
        ValueError: a value that would be taken is not finite.
    """
    core = encoder.get_submodule(encoder.core)
    state = core.state_dict()
    wanted = {name: value for name, value in state.items() if _counts(value)}
    prefix, layout, part = _best_part(tensors, wanted)
    converted = _converted(core, part, wanted)
    missing = {
        name: why for name, own in wanted.items() if (why := _why_not(converted.get(name), own))
    }
    fitting = {name: converted[name] for name in wanted if name not in missing}
    _check_finite(fitting, weights)
    counters = {
        name: converted[name]
        for name, own in state.items()
        if name not in wanted and _why_not(converted.get(name), own) is None
    }
    core.load_state_dict(fitting | counters, strict=False)
    resampled = [name for name in fitting if _is_resampled(name, fitting[name], part)]
    return Fit(
        weights=weights,
        layout=layout.name,
        prefix=prefix.rstrip("."),
        taken=tuple(name for name in fitting if name not in resampled),
        resampled=tuple(resampled),
        missing=missing,
        left_over=_left_over(tensors, prefix, layout, _sources(part, fitting)),
        tensor_share=len(fitting) / len(wanted),
        value_share=_num_values(fitting) / _num_values(wanted),
    )


def _why_not(given: Tensor | None, own: Tensor) -> str | None:
    """Say why a tensor cannot be taken; None where it can."""
    if given is None:
        return "is not in the file"
    if given.shape != own.shape:
        return f"has shape {tuple(given.shape)}, not {tuple(own.shape)}"
    return None


def _counts(value: Tensor) -> bool:
    """Tell whether a tensor holds weights or statistics, and not a counter."""
    return value.is_floating_point()


def _num_values(tensors: Mapping[str, Tensor]) -> int:
    return sum(value.numel() for value in tensors.values())


def _best_part(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> tuple[str, Layout, dict[str, Tensor]]:
    """Find the part of a file, and the layout, that name most of the wanted tensors."""
    best: tuple[str, Layout, dict[str, Tensor]] | None = None
    most = -1
    for prefix, part in parts(tensors):
        for layout in LAYOUTS:
            renamed = {layout.rename(name): value for name, value in part.items()}
            found = len(renamed.keys() & wanted.keys())
            if found > most:
                most = found
                best = prefix, layout, renamed
    assert best is not None, "a file holds at least itself"
    return best


def _converted(
    core: nn.Module, part: dict[str, Tensor], wanted: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Bring tensors to the network's own form, by timm's and torchvision's converters where they
    help.

    A converter may take the network's own names for its authors' old ones: it counts only where
    more fits with it than without.
    """
    given = dict(part)
    own = wanted.get(_KERNEL)
    _fit_kernel(given, channels=3 if own is None else own.shape[1])
    _prefix_positions(core, given)
    forms = [given]
    with contextlib.suppress(*_CONVERTERS_RAISE):
        forms.append(_by_library(core, dict(given)))
    for form in forms:
        _inflate(form, wanted)
    return max(forms, key=lambda form: _num_fitting(form, wanted))


def _num_fitting(form: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> int:
    return sum(name in form and form[name].shape == own.shape for name, own in wanted.items())


def _by_library(core: nn.Module, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert by the function of the library that the network is of."""
    if _TORCHVISION_POSITIONS in given:
        from torchvision.models.vision_transformer import interpolate_embeddings

        network: Any = core
        return dict(
            interpolate_embeddings(network.image_size, network.patch_size, OrderedDict(given))
        )
    convert = getattr(sys.modules[type(core).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return given
    with contextlib.redirect_stdout(io.StringIO()):  # timm prints what it looked for in vain
        converted: dict[str, Tensor] = convert(given, core)
    return converted


def _fit_kernel(given: dict[str, Tensor], channels: int) -> None:
    """Turn a patch embedding of clips into one of images, what it makes of a clip that stands
    still; and one of images into one of so many frames' channels, which makes the same of that.

    Positions in time are averaged: encoders of clips have their own.
    """
    kernel = given.get(_KERNEL)
    if kernel is None:
        return
    if kernel.ndim == 5:
        _average_times(given, kernel)
        if channels == kernel.shape[1] * kernel.shape[2]:
            given[_KERNEL] = kernel.transpose(1, 2).flatten(1, 2)  # (D, t * 3, p, p)
            return
        kernel = given[_KERNEL] = kernel.sum(dim=2)  # (D, 3, p, p)
    frames, rest = divmod(channels, kernel.shape[1])
    if kernel.ndim == 4 and frames > 1 and not rest:
        given[_KERNEL] = kernel.repeat(1, frames, 1, 1) / frames


def _average_times(given: dict[str, Tensor], kernel: Tensor) -> None:
    positions = given.get(_POSITIONS)
    if positions is None or positions.ndim != 3:
        return
    count = positions.shape[1]
    wanted = max(1, VIDEO_POSITIONS // kernel.shape[2])
    for frames in sorted(range(1, count + 1), key=lambda number: (number != wanted, number)):
        if count % frames == 0 and _is_square(count // frames):
            given[_POSITIONS] = positions.unflatten(1, (frames, -1)).mean(dim=1)  # (1, N, D)
            return


def _inflate(form: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Spread kernels of images over the time of kernels of clips (I3D, arXiv:1705.07750)."""
    for name, own in wanted.items():
        given = form.get(name)
        if given is not None and own.ndim == 5 and given.ndim == 4:
            form[name] = (given.unsqueeze(2) / own.shape[2]).expand(-1, -1, own.shape[2], -1, -1)


def _is_square(count: int) -> bool:
    return math.isqrt(count) ** 2 == count


def _prefix_positions(core: nn.Module, given: dict[str, Tensor]) -> None:
    """Give position embeddings as many leading tokens as the network has: cut, or zeros added."""
    positions = given.get(_POSITIONS)
    own = getattr(core, _POSITIONS, None)
    # timm's converter of registers wants the class token's position.
    if positions is None or own is None or positions.ndim != 3 or "register_tokens" in given:
        return
    count = positions.shape[1]
    extra = count - math.isqrt(count) ** 2
    tokens = int(getattr(core, "num_prefix_tokens", 0))
    wanted = 0 if getattr(core, "no_embed_class", False) else tokens
    if extra > _MOST_PREFIX_TOKENS or extra == wanted:
        return
    leading = positions[:, : min(extra, wanted)]
    zeros = positions.new_zeros(1, wanted - leading.shape[1], positions.shape[2])
    given[_POSITIONS] = torch.cat([leading, zeros, positions[:, extra:]], dim=1)


def _check_finite(fitting: Mapping[str, Tensor], weights: str) -> None:
    for name, value in fitting.items():
        if not bool(torch.isfinite(value).all()):
            raise ValueError(
                f"encoder.weights {weights}: {name} holds values that are not finite: take another"
                " checkpoint"
            )


def _is_resampled(name: str, value: Tensor, part: Mapping[str, Tensor]) -> bool:
    """Tell whether a tensor was computed from one of another size, not copied or cut."""
    source = part.get(name)
    if source is None or source.numel() == value.numel():
        return False
    return value is not source and value._base is not source


def _sources(part: Mapping[str, Tensor], fitting: Mapping[str, Tensor]) -> set[str]:
    """Return which tensors of the part, by their renamed names, went into the encoder."""
    objects = {id(value) for value in fitting.values()}
    objects |= {id(value._base) for value in fitting.values() if value._base is not None}
    return {name for name, value in part.items() if name in fitting or id(value) in objects}


def _left_over(
    tensors: Mapping[str, Tensor], prefix: str, layout: Layout, used: set[str]
) -> tuple[str, ...]:
    """Return the tensors of the file that were not used, by their own names."""

    def is_used(name: str) -> bool:
        inner = name.removeprefix(prefix)
        return name.startswith(prefix) and layout.rename(inner) in used

    return tuple(name for name, value in tensors.items() if _counts(value) and not is_used(name))


def _some(names: list[str]) -> str:
    more = ", ..." if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _refusal(fit: Fit, config: EncoderConfig) -> str:
    filled = len(fit.taken) + len(fit.resampled)
    total = filled + len(fit.missing)
    name, why = next(iter(fit.missing.items()))
    return (
        f"encoder.weights {fit.weights} fills {filled} of {total} tensors of"
        f" encoder.name={config.name} ({fit.value_share:.0%} of its values), fewer than"
        f" encoder.min_share={config.min_share:g}: {name} {why}; the file holds"
        f" {_some(list(fit.left_over)) or 'no more'}: choose the encoder that they were made for"
    )
