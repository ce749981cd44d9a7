"""Several settings of a classifier at once: heads side by side on one frozen encoder.

As V-JEPA judges frozen features (arXiv:2404.08471, arXiv:2506.09985): the encoder runs once a
batch, and on its features learn as many heads as there are settings, each as if it were alone.
Which one ships is chosen by validation samples afterwards.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor

from augment.frozen import Frozen
from models import optim
from models.collectives import global_mean
from models.method import Batch, MethodConfig
from models.supervised.finetune import Finetune, class_losses, class_targets
from models.supervised.head import HeadConfig, HeadCopies
from models.supervised.supervised import GROUP, Learning, Supervised, SupervisedConfig, flat


class HeadSetting(Frozen):
    """How one head learns."""

    lr_scale: float = Field(gt=0, description="multiplies the learning rate")
    weight_decay: float = Field(ge=0, description="weight decay; none on biases and norms")


class SeveralHeadsConfig(SupervisedConfig):
    """Settings of several heads."""

    name: Literal["several_heads"] = "several_heads"
    trained: Learning = Field("head", description="the heads alone")
    settings: tuple[HeadSetting, ...] = Field(min_length=2, description="one a head")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.head.copies != len(self.settings):
            raise ValueError(
                f"head.copies must be the number of settings, {len(self.settings)}, got"
                f" {self.head.copies}"
            )
        if self.trained != "head":
            raise ValueError(f"trained must be head, one frozen encoder, got {self.trained}")
        return self


class SeveralHeads(Supervised):
    """Heads on a frozen encoder, and the cross entropy of each with the labels."""

    Config: ClassVar[type[MethodConfig]] = SeveralHeadsConfig
    small: ClassVar[MethodConfig] = SeveralHeadsConfig(
        head=HeadConfig(name="linear", classes=("a", "b"), copies=2),
        settings=(
            HeadSetting(lr_scale=1.0, weight_decay=0.0),
            HeadSetting(lr_scale=0.1, weight_decay=0.1),
        ),
    )
    columns: ClassVar[Mapping[str, str]] = Finetune.columns
    takes_clips: ClassVar[bool] = True
    config: SeveralHeadsConfig

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Tell the classes of the images by every head.

        Returns:
            loss: Sum over the heads of what `Finetune` gives of one: each gets the gradient that it
                would get alone.
            top1: Share of the images whose first class is right, on average over the heads.
            embedding: The heads' features of each image, averaged over places, detached, (B, D).
        """
        images = batch["views"][GROUP][0]  # (B, 3, S, S)
        wanted = class_targets(batch, self.config.head)  # (B, C)
        features = self.head.features(self.encoder, images)
        with torch.autocast(images.device.type, enabled=False):
            scores = self.head(features)  # (B, C, K)
            losses = [class_losses(one, wanted, self.config.head) for one in scores.unbind(2)]
        right = wanted.gather(1, scores.detach().argmax(1)) > 0  # (B, K)
        return {
            "loss": global_mean(torch.stack(losses).sum(0), batch["valid"]),
            "top1": global_mean(right.float().mean(1), batch["valid"]),
            "embedding": flat(features).detach(),
        }

    def param_groups(self) -> list[optim.ParamGroup]:
        """Split each head's parameters, and give them its own setting."""
        groups = list[optim.ParamGroup]()
        heads = cast(HeadCopies, self.head).heads
        for number, (head, own) in enumerate(zip(heads, self.config.settings, strict=True)):
            for group in optim.param_groups(head):
                name = f"head{number}"
                groups.append(
                    {
                        **group,
                        "name": f"{group['name']}/{name}",
                        "lr_scale": own.lr_scale,
                        "own_decay": own.weight_decay,
                        "clipped": name,
                    }
                )
        return groups
