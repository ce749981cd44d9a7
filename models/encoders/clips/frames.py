"""Clips as their frames, each embedded by an encoder of images."""

from collections.abc import Sequence

from torch import Tensor

from models.encoders.encoder import Encoder, Feature, Pooling, Tokens


class FramesEncoder(Encoder):
    """An encoder of images that embeds a clip (B, T, 3, H, W) by the mean of its frames'
    embeddings.

    It sees nothing of their order; `frames` keeps them apart, for objectives that compare them.

    Args:
        each: Embeds a frame.
    """

    def __init__(self, each: Encoder) -> None:
        super().__init__()
        self.each = each
        self.name = each.name
        self.pooling = each.pooling
        self.core = ".".join(filter(None, ("each", each.core)))
        self.embed_dim = each.embed_dim
        self.patch_size = each.patch_size
        if hasattr(each, "grid"):
            self.grid = each.grid

    @property
    def poolings(self) -> tuple[Pooling, ...]:
        """Return those of a frame."""
        return self.each.poolings

    @property
    def map_dim(self) -> int:
        """Return the channels of the feature maps, where it gives some."""
        return self.each.map_dim

    @property
    def depth(self) -> int:
        """Return the number of layers of the network of a frame."""
        return self.each.depth

    @property
    def pools_its_layers(self) -> bool:
        """Tell whether `forward` gives what `pool` makes of the last layer."""
        return self.each.pools_its_layers

    def supports(self, feature: Feature) -> bool:
        """Tell whether the encoder gives this: frames, and maps, the mean of its frames'."""
        return feature == "frames" or (
            feature in ("maps", "trainable_maps") and self.each.supports(feature)
        )

    def use_pooling(self, pooling: Pooling) -> None:
        """Choose how a frame is embedded."""
        self.each.use_pooling(pooling)
        self.pooling = pooling
        self.embed_dim = self.each.embed_dim

    def forward(self, clips: Tensor) -> Tensor:
        """Embed clips (B, T, 3, H, W) as (B, D)."""
        return self.frames(clips).mean(dim=1)

    def frames(self, clips: Tensor) -> Tensor:
        """Embed each frame of clips (B, T, 3, H, W), (B, T, D)."""
        embedded: Tensor = self.each(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
        return embedded

    def maps(self, clips: Tensor) -> Tensor:
        """Encode clips as the mean of their frames' maps (B, map_dim, h, w)."""
        maps: Tensor = self.each.maps(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
        return maps.mean(dim=1)

    def layers(self, clips: Tensor, wanted: Sequence[int]) -> list[Tensor | Tokens]:
        """Encode clips as the mean of their frames' layers."""
        found = self.each.layers(clips.flatten(0, 1), wanted)
        return [_mean_of_frames(layer, clips.shape[:2]) for layer in found]

    def pool(self, features: Tensor | Tokens, pooling: Pooling | None = None) -> Tensor:
        """Make the embedding (B, D) of what `maps` gave, as of an image."""
        return self.each.pool(features, pooling)


def _mean_of_frames(layer: Tensor | Tokens, shape: Sequence[int]) -> Tensor | Tokens:
    def mean(rows: Tensor) -> Tensor:
        averaged: Tensor = rows.unflatten(0, tuple(shape)).mean(dim=1)
        return averaged

    if not isinstance(layer, Tokens):
        return mean(layer)
    cls = None if layer.cls is None else mean(layer.cls)
    return Tokens(cls, mean(layer.registers), mean(layer.patches))
