"""SigLIP (Zhai 2023, arXiv:2303.15343).

Whether an image and a caption belong together is told pair by pair, yes or no, by a logistic loss;
no softmax over the batch, so nobody needs the whole matrix of similarities: captions are taken a
worker's at a time, and what was computed of them is made again for the gradient. As all but one in
a batch of answers are no, a learnt bias begins at -10, where that is told already.

It fails as CLIP does, where captions say the same of many images.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from models.blocks.pretext import pair_top1
from models.collectives import all_reduce_sum, gather, rank, world_size
from models.method import Batch, MethodConfig
from models.multimodal.text_encoder import TextEncoderConfig
from models.multimodal.text_tower import TextTowerConfig
from models.multimodal.two_towers import TwoTowers, TwoTowersConfig


class SigLIPConfig(TwoTowersConfig):
    """SigLIP's settings; the defaults are the paper's."""

    name: Literal["siglip"] = "siglip"
    temperature: float = Field(
        default=0.1, gt=0, description="that training begins with; it is learnt"
    )
    bias: float = Field(
        default=-10.0, description="of the similarities, that training begins with; it is learnt"
    )

    def tower(self) -> TextTowerConfig:
        """Return what the text tower is built of."""
        return super().tower().model_copy(update={"bias": self.bias})


class SigLIP(TwoTowers):
    """Two towers and a logistic loss of every pair."""

    Config: ClassVar[type[MethodConfig]] = SigLIPConfig
    small: ClassVar[MethodConfig] = SigLIPConfig(
        vocab_size=512,
        context_length=8,
        text=TextEncoderConfig(width=16, depth=1, num_heads=2),
        projection_dim=16,
    )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Tell of each image and caption of the global batch whether they belong together.

        Returns:
            loss: Logistic loss, nats, sum over an image's captions and mean over the global batch's
                valid images.
            caption_top1: Share of this worker's images whose caption, of this worker's only, is the
                nearest; 1 / B at chance.
            temperature: As learnt so far.
            embedding: The encoder's output (B, D), detached; rows of invalid samples included.
        """
        embedding, images, texts = self.compared(batch)
        valid = batch["valid"]
        bias = self.text_tower.bias
        assert bias is not None, "the tower of such a method has one"
        return {
            "loss": pairwise_logistic(images, texts, self.log_scale.exp(), bias, valid),
            "caption_top1": pair_top1(images, texts, valid),
            "temperature": (-self.log_scale.detach()).exp(),
            "embedding": embedding.detach(),
        }


def pairwise_logistic(
    images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor, valid: Tensor
) -> Tensor:
    """Tell pairs that belong together from all others, each by itself.

    Args:
        images: Projections of this worker's images (B, P); need not be normalised.
        texts: Of their captions (B, P).
        scale: Multiplies the cosine similarities, a scalar.
        bias: Added to them, a scalar.
        valid: (B,) bool; samples that are not make no pair.

    Returns:
        Nats: this worker's sum over its images and all workers' captions, times the number of
        workers, over the valid samples of the global batch.
    """
    with torch.autocast(images.device.type, enabled=False):
        images, texts = (functional.normalize(x.float(), dim=1) for x in (images, texts))
        everyone = gather(texts).unflatten(0, (world_size(), -1))  # (W, B, P)
        everyone_valid = gather(valid).unflatten(0, (world_size(), -1))  # (W, B)
        own = torch.eye(len(valid), device=valid.device, dtype=torch.bool)
        total = images.new_zeros(())
        for worker, (theirs, theirs_valid) in enumerate(zip(everyone, everyone_valid, strict=True)):
            together = own if worker == rank() else torch.zeros_like(own)
            counts = valid.unsqueeze(1) & theirs_valid
            loss = checkpoint(
                _pairs, images, theirs, scale, bias, together, counts, use_reentrant=False
            )
            assert isinstance(loss, Tensor)
            total = total + loss
        num_valid = all_reduce_sum(valid.sum().float()).clamp(min=1)
        return total * world_size() / num_valid


def _pairs(
    images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor, together: Tensor, counts: Tensor
) -> Tensor:
    """Sum the loss over the pairs (B, B) that count."""
    logits = images @ texts.T * scale + bias
    signed = torch.where(together, logits, -logits)
    return -(functional.logsigmoid(signed) * counts).sum()
