"""Prediction of the next frame with the joint loss (Mathieu 2015, arXiv:1511.05440, section 3.2):
its error, and a discriminator that must take what was painted for what came.

The discriminator sees the past as well: it asks for a frame that follows from it, not for a sharp
one alone. It fails as every such game does: one that tells all painted frames teaches nothing
(`discriminator_top1` 1 and staying there), one that guesses (0.5) leaves the error alone.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from augment.recipe import Views
from models.blocks.discriminator import (
    Discriminator,
    judged_by,
    taken_for_made,
    taken_for_real,
)
from models.collectives import global_mean
from models.encoders.factory import EncoderConfig
from models.method import Batch, MethodConfig
from models.motion.frame_prediction import FramePrediction, FramePredictionConfig


class FramePredictionAdversarialConfig(FramePredictionConfig):
    """Settings of the joint loss; the weight is the paper's."""

    name: Literal["frame_prediction_adversarial"] = "frame_prediction_adversarial"  # type: ignore[assignment]
    adversarial_weight: float = Field(
        default=0.05, ge=0, description="weight of being taken for what came; the error's is 1"
    )
    discriminator_width: int = Field(
        default=64, ge=1, description="channels of the discriminator's first stage"
    )


class FramePredictionAdversarial(FramePrediction):
    """A prediction of frames that a discriminator judges as well."""

    Config: ClassVar[type[MethodConfig]] = FramePredictionAdversarialConfig
    small: ClassVar[MethodConfig] = FramePredictionAdversarialConfig(
        decoder_width=4, discriminator_width=4
    )
    adversarial: ClassVar[bool] = True

    def __init__(
        self,
        config: FramePredictionAdversarialConfig,
        encoder_config: EncoderConfig,
        views: Views,
        seed: int,
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.adversarial_weight = config.adversarial_weight
        channels = 3 * (config.num_past + 1)
        self.discriminator = Discriminator(channels, views.size, width=config.discriminator_width)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Paint the last frame so that it is right and looks as if it had come.

        Returns:
            loss: That of `frame_prediction`, and the cross entropy of the painted frame with
                "real", weighted; mean over the valid samples of all workers.
            discriminator_loss: Cross entropy of true and painted frames behind their past, nats,
                summed: 2 log 2 where it guesses.
            discriminator_top1: Share of frames, true and painted, that it tells; 1 / 2 at chance.
            beside_copying, sharpness, embedding: As of `frame_prediction`.
        """
        frames, painted, embedding = self._paint(batch)
        valid = batch["valid"]
        past = frames[:, :-1].flatten(1, 2)  # (B, 3P, S, S)
        made = torch.cat([past, painted], dim=1)
        fooled = taken_for_real(judged_by(self.discriminator, made))  # (B,)
        error = self._error(painted, frames[:, -1])
        of_true = self.discriminator(frames.flatten(1, 2))
        of_made = self.discriminator(made.detach())
        told = ((of_true > 0).float() + (of_made < 0).float()) / 2
        return {
            "loss": global_mean(error + self.adversarial_weight * fooled, valid),
            "discriminator_loss": global_mean(
                taken_for_real(of_true) + taken_for_made(of_made), valid
            ),
            "discriminator_top1": global_mean(told, valid),
            **self._judged(frames, painted.detach(), valid),
            "embedding": embedding,
        }
