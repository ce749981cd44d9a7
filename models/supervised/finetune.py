"""Fine-tuning: an encoder and a classifier on it learn from labels.

The recipe is that of MAE's fine-tuning (arXiv:2111.06377, A.1), which suits small labelled sets: a
rate that falls layer by layer, mixup (arXiv:1710.09412) and CutMix (arXiv:1905.04899), smoothed
labels.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from augment.frozen import Frozen
from models.collectives import global_mean
from models.method import Batch, MethodConfig
from models.supervised.head import HeadConfig
from models.supervised.supervised import GROUP, Supervised, SupervisedConfig, flat


class MixingConfig(Frozen):
    """How labels are smoothed and images mixed."""

    label_smoothing: float = Field(
        0.1, ge=0, lt=1, description="finetune: share of a label given to all classes"
    )
    mixup: float = Field(0.0, ge=0, description="finetune: alpha of mixup; 0: none")
    cutmix: float = Field(0.0, ge=0, description="finetune: alpha of CutMix; 0: none")


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
        images = batch["views"][GROUP][0]  # (B, 3, S, S)
        wanted = class_targets(batch, self.config.head)  # (B, C)
        mixed, target = self._mixed(images, wanted, batch)
        features = self.head.features(self.encoder, mixed)
        with torch.autocast(images.device.type, enabled=False):
            scores = self.head(features)  # (B, C)
            loss = class_losses(scores, target, self.config.head, self.config.label_smoothing)
        right = wanted.gather(1, scores.detach().argmax(1, keepdim=True))[:, 0] > 0
        return {
            "loss": global_mean(loss, batch["valid"]),
            "top1": global_mean(right.float(), batch["valid"]),
            "embedding": flat(features).detach(),
        }

    def _mixed(self, images: Tensor, target: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mix each image with its neighbour in the batch, by draws keyed by the batch's first."""
        config = self.config
        if not self.training or not (config.mixup or config.cutmix) or len(images) < 2:
            return images, target
        from torchvision.transforms import v2

        ways: list[Any] = []
        if config.mixup:
            ways.append(v2.MixUp(alpha=config.mixup, num_classes=target.shape[1]))
        if config.cutmix:
            ways.append(v2.CutMix(alpha=config.cutmix, num_classes=target.shape[1]))
        key = f"{self.seed}/{int(batch['epoch'][0])}/{int(batch['sample_id'][0])}"
        draw = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=7).digest(), "big")
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(draw)
            way = ways[int(torch.randint(len(ways), ()))]
            mixed: tuple[Tensor, Tensor] = way(images, target)
        return mixed


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
