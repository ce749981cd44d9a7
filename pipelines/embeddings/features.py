"""What is embedded: which encoder, which of its layers, and how its places become a vector.

Plain PyTorch: an export, a probe and a search that embeds one image take the same way.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from augment.sound.log_mel import statistics
from augment.sound.sound_views import scaled
from models import artifact
from models.artifact import Artifact
from models.encoders.encoder import Encoder, Pooling, Tokens
from models.probes import bag_of_words, colour_statistics
from models.steps import memory_layout
from pipelines.storage import uris

Kind = Literal["pretrained", "untrained", "colour", "still"]
Form = Literal["pooled", "tokens", "maps", "joint"]
_OWN_WEIGHTS: tuple[Kind, ...] = ("pretrained", "still")
ONE_VECTOR: tuple[Form, ...] = ("pooled", "joint")
"""Forms that give one vector a sample."""


@dataclass(frozen=True)
class Features:
    """What is taken of each image.

    Attributes:
        artifact: URI of the artifact.
        kind: `pretrained` (the artifact), `untrained` (what it was before training), `colour`
            (statistics of the pixels as the artifact would see them, of sounds of their log-mel
            spectra; no network) or `still` (the artifact, shown the frame in the middle of each
            clip all the time: what it tells without motion).
        pooling: How the places of a layer become one vector; `auto`: as the artifact says.
        layer: The layer: 1 is next to the pixels, -1 the last one; None: the last. A layer is a
            block of a transformer or a stage of a convolutional network.
        last_blocks: So many layers up to that one, joined, first to last.
        form: `pooled` (B, D); `tokens` (B, N, D), the patch tokens or the places of the maps row
            by row; `maps` (B, D, h, w); `joint` (B, P), the embedding where texts are, of length 1.
        normalised: Whether vectors get length 1: of tokens and maps those of each place.
        half: float16 instead of float32.
    """

    artifact: str
    kind: Kind = "pretrained"
    pooling: Pooling = "auto"
    layer: int | None = None
    last_blocks: int = 1
    form: Form = "pooled"
    normalised: bool = False
    half: bool = False

    @property
    def is_own_embedding(self) -> bool:
        """Tell whether the embedding is asked for as the artifact itself makes it."""
        return (self.pooling, self.layer, self.last_blocks, self.form) == (
            "auto",
            None,
            1,
            "pooled",
        )

    def layers(self, depth: int) -> list[int]:
        """Return the layers that are joined, 1 to `depth`, ascending.

        Raises:
            ValueError: they are not there.
        """
        last = depth if self.layer is None else self.layer
        last = depth + 1 + last if last < 0 else last
        if not 1 <= last <= depth:
            raise ValueError(
                f"layer {self.layer} is none of the encoder, which has {depth}: give 1 to {depth},"
                " or -1 for the last"
            )
        if not 1 <= self.last_blocks <= last:
            raise ValueError(
                f"last_blocks {self.last_blocks} must be 1 to {last}: so many layers end there"
            )
        return list(range(last - self.last_blocks + 1, last + 1))


def check(features: Features, encoder: Encoder) -> None:
    """Refuse what an encoder does not give.

    Raises:
        ValueError: with key, value and remedy, in one line.
    """
    if features.kind == "colour" or features.is_own_embedding:
        return
    if features.form != "joint" and not encoder.supports("maps"):
        raise ValueError(
            f"encoder.name={encoder.name} gives an embedding and no feature maps: leave out"
            " pooling, layer, last_blocks and form"
        )
    if features.form == "joint":
        if (features.layer, features.last_blocks) != (None, 1):
            raise ValueError("form=joint is made of the embedding: leave out layer and last_blocks")
        return
    features.layers(encoder.depth)
    if features.form == "pooled" and features.pooling != "auto":
        try:
            encoder.check_pooling(features.pooling)
        except ValueError as error:
            raise ValueError(str(error).removeprefix("encoder.")) from None


class Extractor:
    """Computes several features of images, every encoder loaded once and run once for all of its
    features.

    Args:
        columns: Name to description.
        device: Where the encoders go.
        loaded: Artifacts that are there already, by URI.
        autocast: Half precision that they compute in where it is safe, in which vectors turn by two
            hundredths of a radian at most; None: bfloat16 on GPUs, else none.

    Raises:
        ValueError: an encoder does not give what is asked for, or an artifact is damaged.
        OSError: an artifact is not there.
    """

    def __init__(
        self,
        columns: Mapping[str, Features],
        device: str | torch.device = "cpu",
        loaded: Mapping[str, Artifact] | None = None,
        *,
        autocast: torch.dtype | None = None,
    ) -> None:
        kind = torch.device(device).type
        self._autocast = autocast or (torch.bfloat16 if kind == "cuda" else None)
        self._device = kind
        named = sorted(columns.items(), key=_encoder_of)
        self._groups = [(key, list(group)) for key, group in groupby(named, _encoder_of)]
        self._loaded = dict[tuple[str, str], Artifact]()
        for key, group in self._groups:
            uri, kind = key
            own = kind in _OWN_WEIGHTS
            there = None
            if own:
                there = (loaded or {}).get(uri) or self._loaded.get((uri, "pretrained"))
            encoder = (there or _load(uri, own=own)).to(device)
            memory_layout.channels_last(encoder)
            self._loaded[key] = encoder
            for _, features in group:
                check(features, encoder.encoder)
                if features.form == "joint":
                    encoder.require_text()

    @property
    def sizes(self) -> list[int]:
        """Return the sides of the images that the encoders take, ascending."""
        return sorted({encoder.image_size for encoder in self._loaded.values()})

    @property
    def sees_clips(self) -> bool:
        """Tell whether the encoders take clips whole."""
        return any(encoder.encoder.media == "clip" for encoder in self._loaded.values())

    @torch.inference_mode()
    def __call__(self, images: Mapping[int, Tensor]) -> dict[str, Tensor]:
        """Compute all columns, on the encoders' device.

        Args:
            images: Side to (B, 3, S, S) uint8 on that device, of each of `sizes`; where it
                `sees_clips`, (B, T, 3, S, S).
        """
        found = dict[str, Tensor]()
        half = self._autocast
        with torch.autocast(self._device, half, enabled=half is not None):
            for key, group in self._groups:
                encoder = self._loaded[key]
                shown = images[encoder.image_size]
                if key[1] == "still":
                    shown = _still(shown)
                found |= _computed(encoder, shown, dict(group))
        return found


def _encoder_of(named: tuple[str, Features]) -> tuple[str, str]:
    return named[1].artifact, named[1].kind


def _load(uri: str, *, own: bool) -> Artifact:
    uris.filesystem(uri)  # the artifact opens its URI with plain fsspec: with this client from now
    # Of colours only the size counts.
    return artifact.load(uri) if own else artifact.untrained(uri)


def _still(clips: Tensor) -> Tensor:
    """Show the frame in the middle of each clip (B, T, 3, S, S) all the time."""
    middle = clips.shape[1] // 2
    return clips[:, middle : middle + 1].expand_as(clips)


def _computed(
    encoder: Artifact, images: Tensor, columns: Mapping[str, Features]
) -> dict[str, Tensor]:
    """Compute features of one encoder in one pass; in two where its own embedding is made of more
    than its layers, and layers are asked for as well."""
    if all(features.kind == "colour" for features in columns.values()):
        colours = _colours(images, encoder)
        return {name: finished(colours, features) for name, features in columns.items()}
    prepared = memory_layout.laid_out(encoder.preprocess(images))
    network = encoder.encoder
    joint = {name for name, features in columns.items() if features.form == "joint"}
    own = {name for name, features in columns.items() if features.is_own_embedding}
    if network.pools_its_layers and not joint and own != set(columns):
        own = set()
    found = dict[str, Tensor]()
    if own or joint:
        embedding = encoder(prepared)
        found = {name: finished(embedding, columns[name]) for name in own}
    if joint:
        shared = encoder.require_text().of_images(embedding)
        found |= {name: finished(shared, columns[name]) for name in joint}
    rest = {name: each for name, each in columns.items() if name not in own | joint}
    if not rest:
        return found
    wanted = {name: features.layers(network.depth) for name, features in rest.items()}
    numbers = sorted({number for layers in wanted.values() for number in layers})
    layers = dict(zip(numbers, network.layers(prepared, numbers), strict=True))
    for name, features in rest.items():
        chosen = [layers[number] for number in wanted[name]]
        found[name] = finished(_joined(network, chosen, features, prepared), features)
    return found


def _colours(images: Tensor, encoder: Artifact) -> Tensor:
    """Return the statistics of images, or the mean of those of a clip's frames; of sounds those of
    their log-mel spectra, of texts their words."""
    if encoder.of_texts is not None:
        return bag_of_words(images)
    if (sounds := encoder.of_sounds) is not None:
        return statistics(scaled(images, 1.0), sounds.rate)
    if images.ndim == 4:
        return colour_statistics(images)
    each: Tensor = colour_statistics(images.flatten(0, 1)).unflatten(0, images.shape[:2])
    return each.mean(dim=1)


def _joined(
    encoder: Encoder, layers: Sequence[Tensor | Tokens], features: Features, images: Tensor
) -> Tensor:
    """Join layers to one tensor of a feature's form."""
    if features.form == "pooled":
        pooling = None if features.pooling == "auto" else features.pooling
        return torch.cat([encoder.pool(layer, pooling) for layer in layers], dim=1)
    places = [as_maps(layer, encoder, images) for layer in layers]
    # Stages of a convolutional network have grids of different sizes: the last one's counts.
    height, width = places[-1].shape[2:]
    same = [functional.adaptive_avg_pool2d(place, (height, width)) for place in places]
    maps = torch.cat(same, dim=1)  # (B, D, h, w)
    return maps if features.form == "maps" else maps.flatten(2).transpose(1, 2)  # (B, N, D)


def as_maps(layer: Tensor | Tokens, encoder: Encoder, images: Tensor) -> Tensor:
    """Return a layer as maps (B, D, h, w)."""
    if not isinstance(layer, Tokens):
        return layer
    grid = [side // encoder.patch_size for side in images.shape[-2:]]
    frames = layer.patches.unflatten(1, (-1, math.prod(grid)))  # (B, times, h * w, D)
    maps: Tensor = frames.mean(dim=1).transpose(1, 2).unflatten(2, grid)
    return maps


def finished(values: Tensor, features: Features) -> Tensor:
    """Give vectors the length and type of a description."""
    values = values.float()
    if features.normalised:
        values = functional.normalize(values, dim=2 if features.form == "tokens" else 1)
    return values.half() if features.half else values
