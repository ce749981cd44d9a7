"""AMDIM, augmented multiscale deep InfoMax (Bachman 2019, arXiv:1906.00910).

What the encoder makes of the whole of one view must tell the local features of the other view of
the same image from those of all other images, at several scales: global to 7 x 7, global to 5 x 5,
and 5 x 5 to 5 x 5, in both directions. At 32 px a place of the 7 x 7 grid sees 8 x 8 px, one of the
5 x 5 grid 16 x 16 px, and the global feature all 32; at 64, 128 and 256 px in proportion. See
`LocalGlobalEncoder`, which pads nothing: with receptive fields that grow beyond control the local
features see each other's pixels, and with padding their place in the image.

Scores are products without normalisation and would grow without end: they are clipped softly, c
tanh(s / c), and their square costs. What ships is the encoder, whose embedding is the global
feature; the heads are thrown away.
"""

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from augment.ops import ColorJitter, Greyscale
from augment.recipe import CropGroup, Views
from augment.rng import uniform
from models.collectives import gather, global_mean, rank
from models.encoders.factory import EncoderConfig
from models.encoders.local_global import LocalGlobalEncoder
from models.method import Batch, Method, MethodConfig, ViewGroups

_GROUP = "global_crops"
_EXCLUDED = -1e30  # finite: a sample without any negative has then a loss and a gradient of 0


class AMDIMConfig(MethodConfig):
    """AMDIM's settings; the defaults are for ImageNet."""

    name: Literal["amdim"] = "amdim"
    score_dim: int = Field(default=1024, ge=2, description="features in which places are compared")
    clip: float = Field(default=20.0, gt=0.0, description="c of c tanh(score / c)")
    cost: float = Field(
        default=0.04,
        ge=0.0,
        description="weight of the scores' mean square, before they are clipped",
    )


class ScoreHead(nn.Module):
    """One hidden layer beside a linear shortcut, place by place: from maps (B, D, h, w) to (B, h *
    w, T) float32."""

    def __init__(self, dim: int, score_dim: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(
            nn.Conv2d(dim, score_dim, kernel_size=1),
            nn.ReLU(),
            nn.Conv2d(score_dim, score_dim, kernel_size=1),
        )
        self.shortcut = nn.Conv2d(dim, score_dim, kernel_size=1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Map every place's features to those in which scores are products."""
        scored: Tensor = self.hidden(features) + self.shortcut(features)
        return scored.flatten(2).transpose(1, 2).float()


class AMDIM(Method):
    """An encoder of local and global features, a head for each scale, and NCE between the scales of
    two views.

    Raises:
        ValueError: the encoder has no grids of known receptive fields.
    """

    Config: ClassVar[type[MethodConfig]] = AMDIMConfig
    small: ClassVar[MethodConfig] = AMDIMConfig(score_dim=32)
    view_groups: ClassVar[ViewGroups] = {_GROUP: 2}
    accumulates: ClassVar[bool] = False
    encoder: LocalGlobalEncoder

    @staticmethod
    def default_views(size: int) -> Views:
        """Make the two views of section 4: crops of 0.3 to 1, colours changed, a quarter grey."""
        jitter = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.2)
        group = CropGroup(
            count=2, scale=(0.3, 1.0), color_jitter=jitter, greyscale=Greyscale(p=0.25)
        )
        return Views(size=size, groups={_GROUP: group})

    def __init__(
        self, config: AMDIMConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.encoder.require("scales", by="method.name=amdim")
        self.clip = config.clip
        self.cost = config.cost
        local = self.encoder.local_dim
        whole = self.encoder.embed_dim
        self.heads = nn.ModuleList(
            ScoreHead(dim, config.score_dim) for dim in (local, local, whole)
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Find the other view's local features from this view's global and local ones.

        Returns:
            loss: NCE, nats, sum of the three tasks and mean of the two directions, and the cost of
                the scores; mean over the global batch's valid samples.
            score_cost: The part of it that is the cost, of this worker's samples.
            embedding: Global feature of the first view (B, D), detached; rows of invalid samples
                included.
        """
        # (2, B, 3, S, S), (B,)
        images = batch["views"][_GROUP]
        valid = batch["valid"]
        maps = self.encoder.scales(images.flatten(0, 1))
        # scores reach into the hundreds before they are cut
        with torch.autocast(images.device.type, enabled=False):
            of_7, of_5, of_1 = (
                head(features.float()).unflatten(0, (2, -1))
                for head, features in zip(self.heads, maps, strict=True)
            )  # (2, B, places, T)
            nce = torch.zeros_like(of_1[0, :, 0, 0])
            cost = torch.zeros_like(of_1[0, :, 0, 0])
            for view in (0, 1):
                place = random_place(of_5[view], batch, self.seed, view)  # (B, T)
                for source, target in (
                    (of_1[view, :, 0], of_7),
                    (of_1[view, :, 0], of_5),
                    (place, of_5),
                ):
                    parts = local_nce(source, target[1 - view], valid, clip=self.clip)
                    nce = nce + parts[0] / 2
                    cost = cost + self.cost * parts[1] / 2
            loss = global_mean(nce + cost, valid)
        return {
            "loss": loss,
            "score_cost": cost.detach().where(valid, 0.0).sum() / valid.sum().clamp(min=1),
            "embedding": maps[-1][: len(valid)].detach().flatten(1),
        }


def random_place(places: Tensor, batch: Batch, seed: int, view: int) -> Tensor:
    """Draw one place (B, T) of each sample's (B, L, T), keyed by (seed, epoch, sample, view)."""
    u = uniform(
        1, seed=seed, epoch=batch["epoch"], sample_id=batch["sample_id"], view=view, op="place"
    )
    drawn = (u * places.shape[1]).long()  # (B, 1)
    return places.gather(1, drawn[:, :, None].expand(-1, -1, places.shape[2])).squeeze(1)


def local_nce(
    source: Tensor, targets: Tensor, valid: Tensor, *, clip: float
) -> tuple[Tensor, Tensor]:
    """Find each place of a sample's target among all places of all other samples of the global
    batch.

    The other places of the same sample are no negatives. At chance, over N samples of L places,
    log(1 + (N - 1) L).

    Args:
        source: (B, T) float32.
        targets: (B, L, T) float32, of the other view.
        valid: (B,) bool; an invalid sample is no negative.
        clip: c of c tanh(score / c); scores are products over the root of T.

    Returns:
        NCE in nats, mean over the places, (B,), and the mean square of a sample's scores before
        clipping, (B,).
    """
    # (G, L, T), (G,)
    everyone = gather(targets)
    everyone_valid = gather(valid)
    scores = torch.einsum("bt,glt->bgl", source, everyone) / math.sqrt(source.shape[1])
    num_scored = (everyone_valid.sum() * targets.shape[1]).clamp(min=1)
    cost = scores.square().where(everyone_valid[:, None], 0.0).sum((1, 2)) / num_scored
    clipped = clip * (scores / clip).tanh()
    row = torch.arange(len(source), device=source.device)
    own = row + rank() * len(source)
    found = clipped[row, own]  # (B, L)
    excluded = (
        own[:, None] == torch.arange(len(everyone), device=source.device)
    ) | ~everyone_valid  # (B, G)
    negatives = (
        clipped.masked_fill(excluded[:, :, None], _EXCLUDED).flatten(1).logsumexp(1, keepdim=True)
    )
    return (torch.logaddexp(negatives, found) - found).mean(1), cost
