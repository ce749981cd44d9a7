"""CLIP (Radford 2021, arXiv:2103.00020).

An image must tell its caption among those of the whole global batch, and a caption its image: what
people say of pictures is the label. Images and captions meet as directions only, at a temperature
that is learnt and never below 1 / 100.

It cannot collapse, as the negatives forbid it. It learns little where batches are small, where
captions say the same of many images (each is the other's wrong answer), or where a caption is read
off the picture (a watermark, a rendered name).
"""

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from models import health
from models.blocks.pretext import pair_top1
from models.collectives import world_size
from models.losses import info_nce
from models.method import Batch, MethodConfig
from models.multimodal.text_encoder import TextEncoderConfig
from models.multimodal.two_towers import TwoTowers, TwoTowersConfig

_MOST_SCALE = 100.0


class CLIPConfig(TwoTowersConfig):
    """CLIP's settings; the defaults are the paper's."""

    name: Literal["clip"] = "clip"
    temperature: float = Field(
        default=0.07, gt=0.01, description="that training begins with; it is learnt"
    )


class CLIP(TwoTowers):
    """Two towers and InfoNCE both ways."""

    Config: ClassVar[type[MethodConfig]] = CLIPConfig
    small: ClassVar[MethodConfig] = CLIPConfig(
        vocab_size=512,
        context_length=8,
        text=TextEncoderConfig(width=16, depth=1, num_heads=2),
        projection_dim=16,
    )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Tell each image's caption, and each caption's image.

        Returns:
            loss: Mean of both ways over the global batch's valid samples, nats; log of their number
                at chance.
            info_nce_bound: Nats that images and captions share, as the loss certifies.
            caption_top1: Share of this worker's images whose caption, of this worker's only, is the
                nearest; 1 / B at chance.
            temperature: As learnt so far.
            embedding: The encoder's output (B, D), detached; rows of invalid samples included.
        """
        embedding, images, texts = self.compared(batch)
        valid = batch["valid"]
        temperature = (-self.log_scale).exp()
        forth = info_nce(images, texts, temperature=temperature, valid=valid)
        back = info_nce(texts, images, temperature=temperature, valid=valid)
        loss = (forth + back) / 2
        return {
            "loss": loss,
            "info_nce_bound": health.info_nce_bound(loss.detach(), world_size() * valid.sum()),
            "caption_top1": pair_top1(images, texts, valid),
            "temperature": temperature.detach(),
            "embedding": embedding.detach(),
        }

    @torch.no_grad()
    def after_step(self, step: int, num_steps: int) -> None:
        """Bound the temperature."""
        super().after_step(step, num_steps)
        self.log_scale.clamp_(max=math.log(_MOST_SCALE))
