"""An encoder of two halves, each of which sees its own channels of an image (arXiv:1611.09842)."""

import torch
from torch import Tensor, nn

from augment.lab import rgb_to_lab
from augment.recipe import IMAGENET_MEAN, IMAGENET_STD
from models.encoders.encoder import Encoder, Feature, Pooling, Tokens

_AB_SCALE = 110.0


class SplitEncoder(Encoder):
    """Embeds an image by two networks that share nothing: one sees L, the other a and b.

    Images come normalised by ImageNet's mean and deviation, as most encoders' do, and are taken
    apart inside; so it is used like any other. An embedding, and a feature map, is that of L
    followed by that of a and b.

    Args:
        lightness: Sees L as three equal channels.
        colour: Sees a, b, and a third channel of zeros.
        disjoint: Whether it is so; otherwise both see the whole image, and each half what the other
            does, which shows what keeping them apart is good for.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, lightness: Encoder, colour: Encoder, *, disjoint: bool = True) -> None:
        super().__init__()
        self.disjoint = disjoint
        self.lightness = lightness
        self.colour = colour
        self.embed_dim = lightness.embed_dim + colour.embed_dim
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    @property
    def map_dim(self) -> int:
        """Return the channels of both halves' maps."""
        return self.lightness.map_dim + self.colour.map_dim

    @property
    def poolings(self) -> tuple[Pooling, ...]:
        """Return those of a half."""
        return self.lightness.poolings

    def use_pooling(self, pooling: Pooling) -> None:
        """Choose how both halves make embeddings."""
        super().use_pooling(pooling)
        self.lightness.use_pooling(pooling)
        self.colour.use_pooling(pooling)

    def supports(self, feature: Feature) -> bool:
        """Tell whether the encoder gives this: maps, where its halves do, and halves."""
        if feature in ("maps", "trainable_maps"):
            return self.lightness.supports(feature)
        return feature == "halves"

    def halves(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Encode normalised images (B, 3, H, W) as the maps of L and those of a and b, (B, map_dim
        / 2, h, w) each."""
        lightness, colour = self._channels(images)
        return self.lightness.maps(lightness), self.colour.maps(colour)

    def maps(self, images: Tensor) -> Tensor:
        """Encode images (B, 3, H, W) as the maps of both halves (B, map_dim, h, w)."""
        return torch.cat(self.halves(images), dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """Embed images (B, 3, H, W) as (B, D)."""
        lightness, colour = self._channels(images)
        return torch.cat([self.lightness(lightness), self.colour(colour)], dim=1)

    def pool(self, features: Tensor | Tokens, pooling: Pooling | None = None) -> Tensor:
        """Make the embedding (B, D) of both halves' maps."""
        assert isinstance(features, Tensor), "halves give maps alone"
        first, second = features.split([self.lightness.map_dim, self.colour.map_dim], dim=1)
        pooled = self.lightness.pool(first, pooling), self.colour.pool(second, pooling)
        return torch.cat(pooled, dim=1)

    def _channels(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Take normalised images apart: what each half sees, about within -1 and 1."""
        if not self.disjoint:
            return images, images
        lab = rgb_to_lab((images.float() * self.std + self.mean).clamp(0, 1))
        lightness = (lab[:, :1] / 50 - 1).expand_as(lab)
        colour = nn.functional.pad(lab[:, 1:] / _AB_SCALE, (0, 0, 0, 0, 0, 1))
        return lightness.to(images.dtype), colour.to(images.dtype)
