"""Context encoder with its joint loss (Pathak 2016, arXiv:1604.07379, section 3.2): squared error,
and a discriminator that must take what was painted for real.

Where several fillings are possible the squared error asks for their mean; a discriminator, which
sees the filling alone and knows that means are blurred, asks for one of them. The paper inpaints
with it (0.999 of the squared error, 0.001 of the other), and trains features without it, as it did
not learn with their network; so `context_encoder` is the one for features.

It fails as every such game does: a discriminator that tells all fillings at once teaches nothing
(`discriminator_top1` 1 and staying there), one that guesses (0.5) leaves the squared error alone.
The paper alternates between the two; here both take a step on the same batch, each against the
other as it was before the step.
"""

from typing import ClassVar, Literal

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
from models.generative.context_encoder import ContextEncoder, ContextEncoderConfig
from models.generative.pixel_masks import Shape, widen
from models.method import Batch, MethodConfig


class ContextEncoderAdversarialConfig(ContextEncoderConfig):
    """The settings of the joint loss; the defaults are the paper's."""

    name: Literal["context_encoder_adversarial"] = "context_encoder_adversarial"  # type: ignore[assignment]
    mask: Shape = Field(
        default="central",
        description=(
            "what is hidden: central, the middle quarter; blocks, rectangles; region, shapes"
            " without straight borders"
        ),
    )
    adversarial_weight: float = Field(
        default=0.001,
        ge=0.0,
        le=1.0,
        description="weight of being taken for real; the squared error has the rest of 1",
    )
    discriminator_width: int = Field(
        default=64, ge=1, description="channels of the discriminator's first stage"
    )


class ContextEncoderAdversarial(ContextEncoder):
    """A context encoder whose fillings are judged by a discriminator as well."""

    Config: ClassVar[type[MethodConfig]] = ContextEncoderAdversarialConfig
    small: ClassVar[MethodConfig] = ContextEncoderAdversarialConfig(
        decoder_width=4, discriminator_width=4
    )
    adversarial: ClassVar[bool] = True

    def __init__(
        self,
        config: ContextEncoderAdversarialConfig,
        encoder_config: EncoderConfig,
        views: Views,
        seed: int,
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.adversarial_weight = config.adversarial_weight
        self.discriminator = Discriminator(3, views.size, width=config.discriminator_width)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Paint what is hidden so that it is right and looks real.

        Returns:
            loss: The context encoder's and the cross entropy of the painted region with "real",
                weighted; mean over the valid samples of all workers.
            discriminator_loss: Cross entropy of real and painted regions, nats, summed: 2 log 2
                where it guesses.
            discriminator_top1: Share of regions, real and painted, that it tells; 1 / 2 at chance.
            hidden_error, sharpness, embedding: As of the context encoder.
        """
        images, hidden, painted, embedding = self._paint(batch)
        valid = batch["valid"]
        region = widen(hidden, self.overlap)
        real = images * region
        made = painted * region
        fooled = taken_for_real(judged_by(self.discriminator, made))  # (B,)
        error = self._error(images, hidden, painted)
        weight = self.adversarial_weight
        of_real = self.discriminator(real)
        of_made = self.discriminator(made.detach())
        told = ((of_real > 0).float() + (of_made < 0).float()) / 2
        return {
            "loss": global_mean((1 - weight) * error + weight * fooled, valid),
            "discriminator_loss": global_mean(
                taken_for_real(of_real) + taken_for_made(of_made), valid
            ),
            "discriminator_top1": global_mean(told, valid),
            **self._judged(images, hidden, painted.detach(), valid),
            "embedding": embedding,
        }
