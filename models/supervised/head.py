"""What is trained on an encoder for a task with labels, and ships beside it."""

import copy
import math
from typing import Literal, NamedTuple, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from augment.execution.boxes import fitted
from augment.frozen import Frozen
from models.encoders.encoder import Encoder

Task = Literal["class", "classes", "mask", "boxes"]
"""What a head tells of an image: its one class, which of many classes it has, the class of each
pixel, or the boxes of objects."""


MOST = 100  # boxes told of an image


class Boxes(NamedTuple):
    """Boxes told of one image, best first.

    Attributes:
        corners: Left, top, right and bottom in px, (n, 4) float32.
        labels: Indices of their classes, (n,) int64.
        scores: Confidence in [0, 1], (n,) float32.
    """

    corners: Tensor
    labels: Tensor
    scores: Tensor

    def enlarged(self, height: int, width: int, size: int) -> "Boxes":
        """Bring boxes of an image that was fitted into a square to its own px.

        Args:
            height: Of the image, px.
            width: Of the image, px.
            size: S, side of the square, in whose upper left corner it lay.
        """
        tall, wide = fitted(height, width, size)
        inside = self.corners.new_tensor([wide, tall, wide, tall])
        corners = torch.minimum(self.corners, inside)
        kept = (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])
        corners *= self.corners.new_tensor([width, height, width, height]) / inside
        return Boxes(corners[kept], self.labels[kept], self.scores[kept])


class HeadConfig(Frozen):
    """Which head, and what its outputs mean."""

    name: Literal["linear", "attentive", "dense", "boxes"] = Field(description="form of the head")
    task: Task = Field("class", description="what it tells")
    classes: tuple[str, ...] = Field(min_length=1, description="their names, in the outputs' order")
    values: tuple[int, ...] = Field(
        (),
        exclude_if=lambda values: not values,  # as before it was a setting
        description="dense: the value of each class in mask files; empty: their places",
    )
    width: int | None = Field(
        None,
        ge=1,
        description=(
            "dense: channels of two 3x3 convolutions before the last; null: the last alone. boxes:"
            " channels of the detector; null: 128"
        ),
    )
    num_heads: int = Field(8, ge=1, description="attentive: heads of the attention, at most")
    copies: int = Field(
        1,
        ge=1,
        exclude_if=lambda copies: copies == 1,  # as before it was a setting
        description="heads side by side while several settings are tried; one of them ships",
    )


class Head(nn.Module):
    """From images and their encoder to scores.

    Attributes:
        config: What it was built of.
    """

    config: HeadConfig

    def features(self, encoder: Encoder, images: Tensor) -> Tensor:
        """Encode normalised images (B, 3, H, W) as what `forward` takes."""
        raise NotImplementedError

    def forward(self, features: Tensor) -> Tensor:
        """Score features: (B, C), of pixels (B, C, h, w); float32, before softmax or sigmoid."""
        raise NotImplementedError

    def scores(self, encoder: Encoder, images: Tensor) -> Tensor:
        """Score normalised images (B, 3, H, W): (B, C), of their pixels (B, C, H, W)."""
        scores: Tensor = self(self.features(encoder, images))
        return scores if scores.ndim == 2 else enlarged(scores, (images.shape[2], images.shape[3]))

    def boxes(self, encoder: Encoder, images: Tensor) -> list[Boxes]:
        """Tell the boxes of normalised images (B, 3, H, W), in their px; of task "boxes"."""
        raise NotImplementedError


class LinearHead(Head):
    """One linear layer on the embedding."""

    def __init__(self, config: HeadConfig, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.linear = nn.Linear(encoder.embed_dim, len(config.classes))
        nn.init.trunc_normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def features(self, encoder: Encoder, images: Tensor) -> Tensor:
        """Return the embedding (B, D)."""
        embedding: Tensor = encoder(images)
        return embedding

    def forward(self, features: Tensor) -> Tensor:
        """Score embeddings (B, D)."""
        scores: Tensor = self.linear(features.float())
        return scores


class AttentiveHead(Head):
    """Cross-attention of one learned query over the places of an image, then a linear layer.

    As I-JEPA and V-JEPA judge frozen features (arXiv:2301.08243, arXiv:2404.08471), for encoders
    whose embedding was never trained: what a class needs lies in some places, and a mean dilutes
    it.
    """

    def __init__(self, config: HeadConfig, encoder: Encoder) -> None:
        super().__init__()
        encoder.require("maps", "probe.name=attentive")
        self.config = config
        dim = encoder.map_dim
        heads = math.gcd(config.num_heads, dim)
        self.query = nn.Parameter(torch.zeros(1, 1, dim))
        nn.init.trunc_normal_(self.query, std=0.02)
        self.norm = nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.last_norm = nn.LayerNorm(dim)
        self.linear = nn.Linear(dim, len(config.classes))

    def features(self, encoder: Encoder, images: Tensor) -> Tensor:
        """Return the maps (B, D, h, w)."""
        return encoder.maps(images)

    def forward(self, features: Tensor) -> Tensor:
        """Score maps (B, D, h, w): (B, C)."""
        places = self.norm(features.float().flatten(2).transpose(1, 2))  # (B, N, D)
        query = self.query.expand(places.shape[0], -1, -1)  # len would fix it in a traced graph
        pooled, _ = self.attention(query, places, places, need_weights=False)  # (B, 1, D)
        scores: Tensor = self.linear(self.last_norm(pooled[:, 0]))
        return scores


class DenseHead(Head):
    """A class for each place of the maps: a linear layer, or a small convolutional network."""

    def __init__(self, config: HeadConfig, encoder: Encoder) -> None:
        super().__init__()
        encoder.require("maps", "probe.name=segment")
        self.config = config
        dim = encoder.map_dim
        layers: list[nn.Module] = []
        if config.width is not None:
            for _ in range(2):
                # not batch norm: scores of an image must not depend on the others
                norm = nn.GroupNorm(math.gcd(32, config.width), config.width)
                layers += [nn.Conv2d(dim, config.width, 3, padding=1, bias=False), norm, nn.ReLU()]
                dim = config.width
        self.layers = nn.Sequential(*layers, nn.Conv2d(dim, len(config.classes), 1))
        # The scales of maps differ a hundredfold between encoders, and one rate is to fit all.
        self.norm = nn.GroupNorm(1, encoder.map_dim)

    def features(self, encoder: Encoder, images: Tensor) -> Tensor:
        """Return the maps (B, D, h, w)."""
        return encoder.maps(images)

    def forward(self, features: Tensor) -> Tensor:
        """Score maps (B, D, h, w): (B, C, h, w), as coarse as they are."""
        scores: Tensor = self.layers(self.norm(features.float()))
        return scores


class HeadCopies(Head):
    """Heads of one form and one start side by side, each of which learns by its own setting."""

    def __init__(self, config: HeadConfig, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        one = build_head(config.model_copy(update={"copies": 1}), encoder)
        self.heads = nn.ModuleList([one, *(copy.deepcopy(one) for _ in range(config.copies - 1))])

    def features(self, encoder: Encoder, images: Tensor) -> Tensor:
        """Return what every one of them takes."""
        return cast(Head, self.heads[0]).features(encoder, images)

    def forward(self, features: Tensor) -> Tensor:
        """Score features by each of K heads: (B, C, K)."""
        return torch.stack([head(features) for head in self.heads], -1)

    def scores(self, encoder: Encoder, images: Tensor) -> Tensor:
        """Score normalised images (B, 3, H, W) by each of K heads: (B, C, K)."""
        scores: Tensor = self(self.features(encoder, images))
        return scores


_FORMS: dict[str, type[LinearHead] | type[AttentiveHead] | type[DenseHead]] = {
    "linear": LinearHead,
    "attentive": AttentiveHead,
    "dense": DenseHead,
}


def build_head(config: HeadConfig, encoder: Encoder) -> Head:
    """Build a head with random weights from torch's CPU generator.

    Raises:
        ValueError: the encoder does not give what the head takes.
    """
    if config.copies > 1:
        return HeadCopies(config, encoder)
    if config.name == "boxes":
        from models.supervised.detector import BoxHead  # detectors take a while to import

        return BoxHead(config, encoder)
    return _FORMS[config.name](config, encoder)


def enlarged(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring scores of places (B, C, h, w) to the pixels (B, C, *size), bilinearly."""
    return functional.interpolate(scores, size=size, mode="bilinear", align_corners=False)
