"""Segmentation: a head on an encoder's maps learns the class of each pixel."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from augment.recipe import CropGroup, Views
from models.collectives import global_mean
from models.encoders.factory import EncoderConfig
from models.method import Batch, MethodConfig
from models.supervised.head import HeadConfig, enlarged
from models.supervised.supervised import GROUP, Supervised, SupervisedConfig, check_upright, flat


class SegmentConfig(SupervisedConfig):
    """Settings of segmentation."""

    name: Literal["segment"] = "segment"
    ignore: int = Field(255, ge=0, le=255, description="value of pixels that teach nothing")


class Segment(Supervised):
    """Encoder and dense head, and their cross entropy with the mask."""

    Config: ClassVar[type[MethodConfig]] = SegmentConfig
    small: ClassVar[MethodConfig] = SegmentConfig(
        head=HeadConfig(name="dense", task="mask", classes=("a", "b"))
    )
    columns: ClassVar[Mapping[str, str]] = {"mask": "masks"}
    config: SegmentConfig

    @staticmethod
    def default_views(size: int) -> Views:
        """Make crops of at least half the image's side, at the image's own proportions."""
        return Views(size=size, groups={GROUP: CropGroup(scale=(0.25, 1.0), ratio=(1.0, 1.0))})

    def __init__(
        self, config: MethodConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        check_upright(views, "masks")

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Tell the class of each pixel.

        Returns:
            loss: Cross entropy, nats, mean over an image's labelled pixels and the global batch's
                valid images.
            pixel_top1: Share of the labelled pixels that are told rightly.
            embedding: The maps, averaged over places, detached, (B, D).
        """
        images = batch["views"][GROUP][0]  # (B, 3, S, S)
        mask = batch["targets"]["mask"].long()  # (B, S, S)
        features = self.head.features(self.encoder, images)  # (B, D, h, w)
        with torch.autocast(images.device.type, enabled=False):
            scores = enlarged(self.head(features), (mask.shape[1], mask.shape[2]))
            ignore = self.config.ignore
            each = functional.cross_entropy(scores, mask, reduction="none", ignore_index=ignore)
        labelled = mask != ignore
        right = (scores.detach().argmax(1) == mask) & labelled
        count = labelled.flatten(1).sum(1).clamp(min=1)
        loss = each.flatten(1).sum(1) / count
        told = right.flatten(1).sum(1) / count
        valid = batch["valid"] & labelled.flatten(1).any(1)
        return {
            "loss": global_mean(loss, valid),
            "pixel_top1": global_mean(told, valid),
            "embedding": flat(features).detach(),
        }
