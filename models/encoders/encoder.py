"""What every encoder is to the methods, the probes and the artifact.

A method sees of its encoder what stands here and no more: it asks for what it needs with `require`
when it is built, and takes `maps`, `tokens` or the embedding. Which network gives them is of no
interest to it.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Feature = Literal[
    "maps",
    "trainable_maps",
    "tokens",
    "places",
    "patches",
    "scales",
    "causal",
    "halves",
    "frames",
    "latents",
    "latents_in_order",
    "words",
]
"""What an encoder can give beside its embedding; "trainable_maps": maps that hold all the embedding
is made of, so that a loss on them trains all of it; "latents_in_order": latents of which each is
read with earlier ones alone."""
Pooling = Literal["auto", "class", "mean", "max", "gem"]
"""How places become one embedding; "auto": the encoder's own way."""

_LACKING: dict[Feature, tuple[str, str]] = {
    "maps": (
        "gives no feature maps",
        "take resnet18_small, vit_tiny_small or a network of timm",
    ),
    "trainable_maps": (
        "embeds by more than its feature maps, and a loss on the maps would not train the rest",
        "set encoder.pooling=mean, or take resnet18_small",
    ),
    "tokens": (
        "gives no patch tokens and cannot leave out hidden patches",
        "take a vision transformer such as vit_tiny_small or vit_base_patch16_224",
    ),
    "places": (
        "cannot leave out hidden patches",
        "take a vision transformer such as vit_tiny_small, or resnet18_small with batch norm and"
        " views.size a multiple of 8",
    ),
    "patches": (
        "does not encode patches one by one",
        "set encoder.patch_size, to a quarter of views.size and at least 8",
    ),
    "causal": (
        "sees the whole image at every patch",
        "set encoder.causal=raster, with vit_tiny_small or a vision transformer of timm",
    ),
    "halves": (
        "is one network that sees all channels",
        "set encoder.split=lab",
    ),
    "frames": (
        "does not embed the frames of a clip one by one",
        "set encoder.time=frames",
    ),
    "latents": (
        "does not encode moment by moment",
        "take wave_gru, wave_transformer or wave_transformer_small",
    ),
    "latents_in_order": (
        "reads each moment beside later ones",
        "take wave_gru",
    ),
    "words": (
        "has no vector of each word by itself",
        "take encoder.name=word_vectors",
    ),
    "scales": (
        "has no feature grids of known receptive fields",
        "take encoder.name=amdim, or method.name=yadim with any encoder",
    ),
}


class Tokens(NamedTuple):
    """What a transformer makes of images, after its last norm.

    Attributes:
        cls: Class token (B, D), None where the network has none.
        registers: Register and distillation tokens (B, R, D); R is 0 where there are none.
        patches: (B, N, D) in raster order; with `keep`, (B, K, D) in its order.
    """

    cls: Tensor | None
    registers: Tensor
    patches: Tensor


class Hidden(NamedTuple):
    """Patches in whose place a learned token stands, before positions are added (BEiT,
    arXiv:2106.08254; SimMIM, iBOT).

    Attributes:
        mask: (B, N) bool, true where a patch is hidden.
        token: (D,) with D = `embed_dim`; a parameter of the method, called `mask_token`, so that an
            encoder has the same weights under every objective.
    """

    mask: Tensor
    token: Tensor


class Encoder(nn.Module):
    """A network from normalised images (B, 3, H, W) to one embedding per image (B, D).

    One that sees clips (B, T, 3, H, W) takes these in their place everywhere; its maps and layers
    are averages over time, its tokens those of all times, frame by frame. One that hears sounds
    takes windows (B, L), one of texts their tokens (B, L), int64.

    Attributes:
        name: As the configuration calls it; for messages.
        changed_by: Keys that made another encoder of the one of that name; for messages.
        media: What one sample is to it.
        core: Name of the module in it whose tensors have the names of the library or paper that the
            network is of; empty: itself.
        embed_dim: D, the length of an embedding.
        pooling: How `forward` makes an embedding of the maps or tokens.
        poolings: What `pooling` may be.
        grid: With tokens, places or patches: their rows and columns in an image of the size that
            the encoder was built for. With tokens, an image of H x W px has H // patch_size rows
            and W // patch_size columns.
        patch_size: With tokens, places or patches: side of one, pixels; else 1.
        tubelet: Frames of a clip that a token stands for; 1 of images.
        keep_tokens: With tokens: share of an image's patches that `forward` encodes in training,
            where `token_key` says which.
        token_key: Seed, epochs (B,) and sample ids (B,), int64, of the batch that `forward` is
            about to see: views of the same B samples, view by view. None: it encodes all patches.
    """

    name: str = "encoder"
    changed_by: tuple[str, ...] = ()
    media: Literal["image", "clip", "audio", "text"] = "image"
    core: str = ""
    embed_dim: int
    pooling: Pooling = "auto"
    grid: tuple[int, int]
    patch_size: int = 1
    tubelet: int = 1
    keep_tokens: float = 1.0
    token_key: tuple[int, Tensor, Tensor] | None = None

    @property
    def poolings(self) -> tuple[Pooling, ...]:
        """Return what `pooling` may be."""
        return ("auto",)

    @property
    def map_dim(self) -> int:
        """Return the channels of the feature maps, where it gives some."""
        return self.embed_dim

    @property
    def num_patches(self) -> int:
        """Return N, the tokens or patches of an image of the size it was built for."""
        return self.grid[0] * self.grid[1]

    @property
    def depth(self) -> int:
        """Return the number of layers that `layers` tells apart."""
        return 1

    @property
    def pools_its_layers(self) -> bool:
        """Tell whether `forward` gives what `pool` makes of the last layer."""
        return True

    @property
    def mixes_images(self) -> bool:
        """Tell whether an image's embedding depends on the others of its batch, by batch norm."""
        return any(isinstance(part, _BatchNorm) for part in self.modules())

    def forward(self, images: Tensor) -> Tensor:
        """Embed images (B, 3, H, W) as (B, D)."""
        raise NotImplementedError

    def maps(self, images: Tensor) -> Tensor:
        """Encode images (B, 3, H, W) as feature maps (B, map_dim, h, w), in one pass.

        Where `supports("maps")`; `pool` makes the embedding of them.
        """
        raise NotImplementedError

    def tokens(
        self, images: Tensor, keep: Tensor | None = None, hidden: Hidden | None = None
    ) -> Tokens:
        """Encode images (B, 3, H, W) as tokens, where `supports("tokens")`; "words": each by
        itself.

        Args:
            images: Normalised; H and W are multiples of `patch_size`.
            keep: (B, K) int64, the patches to encode, in raster order; all where None. The others
                cost nothing beyond the patch embedding.
            hidden: Patches whose content the encoder must not see, though it encodes their places.
        """
        raise NotImplementedError

    def places(self, images: Tensor, keep: Tensor | None = None) -> Tokens:
        """Encode images (B, 3, H, W) place by place, where `supports("places")`: as patch tokens,
        or as the places of a map.

        Args:
            images: Normalised; H and W are multiples of `patch_size`.
            keep: (B, K) int64, the patches that the encoder may see, and whose features it gives;
                all where None.
        """
        return self.tokens(images, keep)

    def frames(self, clips: Tensor) -> Tensor:
        """Embed each frame of clips (B, T, 3, H, W), (B, T, D), where `supports("frames")`."""
        raise NotImplementedError

    def latents(self, sounds: Tensor) -> Tensor:
        """Encode windows of sound (B, L) moment by moment, (B, T, D), no moment with knowledge of
        those farther away than its convolutions reach; where `supports("latents")`."""
        raise NotImplementedError

    def contextual(self, latents: Tensor, hidden: Hidden | None = None) -> Tensor:
        """Read moments (B, T, D) beside each other, (B, T, D); their mean is the embedding.

        Where `supports("latents")`.

        Args:
            latents: What `latents` gave.
            hidden: Moments in whose place a learned token stands; the mask is (B, T).
        """
        raise NotImplementedError

    def layers(self, images: Tensor, wanted: Sequence[int]) -> list[Tensor | Tokens]:
        """Encode images (B, 3, H, W) as the features of some layers, in one pass.

        A layer is a block of a transformer, or a stage of a convolutional network. The last one
        gives what `tokens` or `maps` gives; earlier ones pass through the same last norm, where
        there is one. Where `supports("maps")`.

        Args:
            images: Normalised.
            wanted: Numbers of layers, ascending: 1 is next to the pixels, `depth` the last.

        Returns:
            Tokens of each layer, or maps (B, D, h, w), whose D, h and w may differ.
        """
        return [self.tokens(images) if self.supports("tokens") else self.maps(images)]

    def freeze_patch_embedding(self) -> None:
        """Leave what makes tokens of pixels at its random values, where `supports("tokens")`."""
        raise NotImplementedError

    def pool(self, features: Tensor | Tokens, pooling: Pooling | None = None) -> Tensor:
        """Make the embedding (B, D) of what `maps` or `tokens` gave.

        Args:
            features: Maps (B, map_dim, h, w) or tokens, of all patches or of those kept.
            pooling: Another one than the encoder's own setting, for probes that compare them.

        Raises:
            ValueError: the encoder cannot do this pooling.
        """
        how = self.pooling if pooling is None else pooling
        self.check_pooling(how)
        if how == "auto":
            return self._pool_auto(features)
        if how == "class":
            assert isinstance(features, Tokens) and features.cls is not None, "maps hold no token"
            return features.cls
        if isinstance(features, Tokens):
            return _POOL[how](features.patches, (1,))
        return _POOL[how](features, (2, 3))

    def _pool_auto(self, features: Tensor | Tokens) -> Tensor:
        return self.pool(features, "mean")

    def supports(self, feature: Feature) -> bool:
        """Tell whether the encoder gives this."""
        return False

    def require(self, feature: Feature, by: str) -> None:
        """Refuse to go on with an encoder that does not give what somebody needs.

        Args:
            feature: What is needed.
            by: Who needs it, as key and value: method.name=mae.

        Raises:
            ValueError: with what it lacks and which encoders have it; or `keep_tokens`, which takes
                places away from who needs more than embeddings.
        """
        if self.keep_tokens < 1:
            raise ValueError(
                f"encoder.keep_tokens={self.keep_tokens:g} would take away patches that {by} needs:"
                " leave it out"
            )
        if self.supports(feature):
            return
        if feature == "trainable_maps" and not self.supports("maps"):
            feature = "maps"
        lack, remedy = _LACKING[feature]
        name = self.name
        if keys := " and ".join(self.changed_by):
            name, remedy = f"{name} with {keys}", f"{remedy}, without {keys}"
        raise ValueError(f"encoder.name={name} {lack}; {by} needs that: {remedy}")

    def use_pooling(self, pooling: Pooling) -> None:
        """Choose how `forward` makes embeddings.

        Raises:
            ValueError: the encoder cannot do this pooling.
        """
        self.check_pooling(pooling)
        self.pooling = pooling

    def check_pooling(self, pooling: Pooling) -> None:
        """Refuse a pooling that the encoder cannot do.

        Raises:
            ValueError: with those that it can.
        """
        if pooling not in self.poolings:
            why = ", which has no class token" if pooling == "class" else ""
            raise ValueError(
                f"encoder.pooling={pooling} cannot be done by encoder.name={self.name}{why}: "
                f"choose one of {', '.join(self.poolings)}"
            )


_GEM_POWER = 3
_GEM_FLOOR = 1e-6


def _mean(places: Tensor, dims: tuple[int, ...]) -> Tensor:
    return places.mean(dim=dims)


def _max(places: Tensor, dims: tuple[int, ...]) -> Tensor:
    return places.amax(dim=dims)


def _gem(places: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Average the third powers of what is positive (generalised mean, arXiv:1711.02512)."""
    powers = places.float().clamp(min=_GEM_FLOOR).pow(_GEM_POWER)
    return powers.mean(dim=dims).pow(1 / _GEM_POWER).to(places.dtype)


_POOL: dict[str, Callable[[Tensor, tuple[int, ...]], Tensor]] = {
    "mean": _mean,
    "max": _max,
    "gem": _gem,
}
