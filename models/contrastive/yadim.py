"""YADIM, yet another deep InfoMax (Falcon & Cho 2020, arXiv:2009.00104).

CPC and AMDIM taken apart and put together from the simplest of each: the views undergo the changes
of both, colour jitter, grey, dropped channels, rotation and shear, and the scores are AMDIM's, but
between the last feature map of one view and the last feature map of the other only. No scale, no
context network and no receptive field needs to be laid out for it, so it takes any encoder with a
feature map, made for convolutional ones: in a transformer each place has seen the whole image.
Nothing of the loss tells it to keep detail.

A place of one view's map, drawn anew every step, must find every place of the other view's map
among those of all other images. The maps are S/8 px wide in `resnet18_small`, 4 x 4 at 32 px, and
S/32 in a usual ResNet. What ships is the encoder, whose embedding is made of that map, its mean by
default.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from augment.ops import Affine, ChannelDrop
from augment.recipe import Views
from models.collectives import global_mean
from models.contrastive.amdim import AMDIM, ScoreHead, local_nce, random_place
from models.encoders.factory import EncoderConfig
from models.method import Batch, Method, MethodConfig, ViewGroups

_GROUP = "global_crops"


class YADIMConfig(MethodConfig):
    """YADIM's settings; the defaults are for ImageNet."""

    name: Literal["yadim"] = "yadim"
    score_dim: int = Field(default=1024, ge=2, description="features in which places are compared")
    clip: float = Field(default=20.0, gt=0.0, description="c of c tanh(score / c)")
    cost: float = Field(
        default=0.04,
        ge=0.0,
        description="weight of the scores' mean square, before they are clipped",
    )


class YADIM(Method):
    """An encoder, a head on its last feature map, and NCE between the maps of two views.

    Raises:
        ValueError: the encoder has no feature map of which its embedding is made.
    """

    Config: ClassVar[type[MethodConfig]] = YADIMConfig
    small: ClassVar[MethodConfig] = YADIMConfig(score_dim=32)
    view_groups: ClassVar[ViewGroups] = {_GROUP: 2}
    accumulates: ClassVar[bool] = False

    @staticmethod
    def default_views(size: int) -> Views:
        """Make two views with AMDIM's changes and CPC v2's, of the whole view."""
        moved = Affine(p=0.2, translate=0.0, scale=(1.0, 1.0))
        changes = {"affine": moved, "channel_drop": ChannelDrop(p=0.2)}
        crop = AMDIM.default_views(size).groups[_GROUP]
        return Views(size=size, groups={_GROUP: crop.model_copy(update=changes)})

    def __init__(
        self, config: YADIMConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.encoder.require("trainable_maps", by="method.name=yadim")
        self.clip = config.clip
        self.cost = config.cost
        self.head = ScoreHead(self.encoder.map_dim, config.score_dim)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Find the other view's map from a place of this view's.

        Returns:
            loss: NCE, nats, mean of the two directions, and the cost of the scores; mean over the
                global batch's valid samples.
            score_cost: The part of it that is the cost, of this worker's samples.
            embedding: Of the first view's map (B, D), detached; rows of invalid samples included.
        """
        # (2, B, 3, S, S), (B,)
        images = batch["views"][_GROUP]
        valid = batch["valid"]
        features = self.encoder.maps(images.flatten(0, 1))  # (2B, D, h, w)
        # scores reach into the hundreds before they are cut
        with torch.autocast(images.device.type, enabled=False):
            places = self.head(features.float()).unflatten(0, (2, -1))  # (2, B, h * w, T)
            nce = torch.zeros_like(places[0, :, 0, 0])
            cost = torch.zeros_like(places[0, :, 0, 0])
            for view in (0, 1):
                source = random_place(places[view], batch, self.seed, view)
                parts = local_nce(source, places[1 - view], valid, clip=self.clip)
                nce = nce + parts[0] / 2
                cost = cost + self.cost * parts[1] / 2
            loss = global_mean(nce + cost, valid)
        return {
            "loss": loss,
            "score_cost": cost.detach().where(valid, 0.0).sum() / valid.sum().clamp(min=1),
            "embedding": self.encoder.pool(features[: len(valid)].detach()),
        }
