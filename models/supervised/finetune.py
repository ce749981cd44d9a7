"""Fine-tuning: an encoder and a classifier on it learn from labels.

The recipe is that of MAE's fine-tuning (arXiv:2111.06377, A.1), which suits small labelled sets: a
rate that falls layer by layer, mixup (arXiv:1710.09412) and CutMix (arXiv:1905.04899), smoothed
labels.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from augment.recipe import Views
from models.collectives import global_mean
from models.encoders.factory import EncoderConfig
from models.method import Batch, MethodConfig
from models.supervised.head import HeadConfig
from models.supervised.mixing import Mixing, MixingConfig
from models.supervised.supervised import GROUP, Supervised, SupervisedConfig, flat


class FinetuneConfig(MixingConfig, SupervisedConfig):
    """Settings of fine-tuning."""

    name: Literal["finetune"] = "finetune"


class Finetune(Supervised):
    """Encoder and head, and their cross entropy with the labels."""

    Config: ClassVar[type[MethodConfig]] = FinetuneConfig
    small: ClassVar[MethodConfig] = FinetuneConfig(
        head=HeadConfig(name="linear", classes=("a", "b"))
    )
    columns: ClassVar[Mapping[str, str]] = {"label": "labels"}
    takes_clips: ClassVar[bool] = True
    config: FinetuneConfig

    def __init__(
        self, config: FinetuneConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.mixing = Mixing(config, seed) if config.mixup or config.cutmix else None

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Tell the classes of the images.

        Returns:
            loss: Cross entropy with the (smoothed, mixed) labels, nats; of several labels an image,
                the mean binary cross entropy of a class. Mean over the global batch's valid
                samples.
            top1: Share of the images whose first class is right (of several labels: one of them);
                low where images are mixed.
            embedding: The head's features of each image, averaged over places, detached, (B, D).
        """
        images = batch["views"][GROUP][0]  # (B, 3, S, S), or clips (B, T, 3, S, S)
        wanted = class_targets(batch, self.config.head)  # (B, C)
        target = wanted
        if self.mixing is not None and self.training:
            images, target = self.mixing(images, wanted, batch)
        features = self.head.features(self.encoder, images)
        with torch.autocast(images.device.type, enabled=False):
            scores = self.head(features)  # (B, C)
            loss = class_losses(scores, target, self.config.head, self.config.label_smoothing)
        right = wanted.gather(1, scores.detach().argmax(1, keepdim=True))[:, 0] > 0
        return {
            "loss": global_mean(loss, batch["valid"]),
            "top1": global_mean(right.float(), batch["valid"]),
            "embedding": flat(features).detach(),
        }


def class_targets(batch: Batch, head: HeadConfig) -> Tensor:
    """Return which classes each sample has, (B, C) float."""
    if head.task == "classes":
        return batch["targets"]["label_hot"].float()
    return functional.one_hot(batch["targets"]["label"], len(head.classes)).float()


def class_losses(
    scores: Tensor, target: Tensor, head: HeadConfig, label_smoothing: float = 0.0
) -> Tensor:
    """Return the loss of each sample (B,), of its scores and targets (B, C)."""
    if head.task == "classes":
        each = functional.binary_cross_entropy_with_logits(scores, target, reduction="none")
        return each.mean(1)
    return functional.cross_entropy(
        scores, target, reduction="none", label_smoothing=label_smoothing
    )
