"""Detection: a pyramid and a detector's head on an encoder's maps learn boxes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from augment.recipe import CropGroup, Views
from models.collectives import global_mean
from models.encoders.factory import EncoderConfig
from models.method import Batch, MethodConfig
from models.supervised.head import HeadConfig
from models.supervised.supervised import GROUP, Supervised, SupervisedConfig, check_upright, flat

if TYPE_CHECKING:
    from models.supervised.detector import BoxHead  # detectors take a while to import


class DetectConfig(SupervisedConfig):
    """Settings of detection."""

    name: Literal["detect"] = "detect"


class Detect(Supervised):
    """Encoder and box head, and RetinaNet's losses (arXiv:1708.02002)."""

    Config: ClassVar[type[MethodConfig]] = DetectConfig
    small: ClassVar[MethodConfig] = DetectConfig(
        head=HeadConfig(name="boxes", task="boxes", classes=("a", "b"), width=16)
    )
    columns: ClassVar[Mapping[str, str]] = {"boxes": "boxes"}
    head: "BoxHead"

    @staticmethod
    def default_views(size: int) -> Views:
        """Make crops of at least half the image's area, at the image's own proportions."""
        return Views(size=size, groups={GROUP: CropGroup(scale=(0.5, 1.0), ratio=(1.0, 1.0))})

    def __init__(
        self, config: MethodConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        check_upright(views, "boxes")

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Tell the boxes of the images.

        Returns:
            loss: Sum of the two below, mean over the global batch's valid images.
            class_loss: Focal loss of the anchors' classes, by anchors on a box.
            box_loss: L1 loss of the offsets of the anchors on a box.
            embedding: The maps, averaged over places, detached, (B, D).
        """
        images = batch["views"][GROUP][0]  # (B, 3, S, S)
        features = self.head.features(self.encoder, images)  # (B, D, h, w)
        size = (images.shape[2], images.shape[3])
        with torch.autocast(images.device.type, enabled=False):
            classes, corners = self.head.losses(features, size, batch["targets"]["boxes"].float())
        valid = batch["valid"]
        return {
            "loss": global_mean(classes + corners, valid),
            "class_loss": global_mean(classes.detach(), valid),
            "box_loss": global_mean(corners.detach(), valid),
            "embedding": flat(features).detach(),
        }
