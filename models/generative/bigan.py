"""BiGAN (Donahue 2017, arXiv:1605.09782).

A generator makes images of random codes, an encoder makes codes of real images, and a discriminator
sees pairs: an image with its encoder's code, or a code with its generator's image. It can only be
fooled from both sides where the two are inverse to each other (the paper's theorem 2), so the
encoder learns the code of an image without ever being shown one.

It collapses as adversarial games do: the generator makes few images, or the discriminator tells all
pairs and teaches nothing (`discriminator_top1` 1 and staying there; 0.5 where it guesses). It
cheats where a pair gives itself away by its code alone: hence codes are drawn from a bounded
distribution, and the encoder's last layer is free to match it. Both sides minimise the cross
entropy with the swapped labels, as the paper's section 3.4 does, which does not saturate.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from augment import rng
from augment.presets import PLAIN_VIEW, plain_views
from augment.recipe import Views
from models.blocks.discriminator import (
    Discriminator,
    judged_by,
    taken_for_made,
    taken_for_real,
)
from models.blocks.map_decoder import MapDecoder
from models.collectives import global_mean
from models.encoders.factory import EncoderConfig
from models.method import Batch, Method, MethodConfig, ViewGroups

_FIRST_SIDE = 4  # of the maps that a code becomes, px
_WIDEST = 8


class BiGANConfig(MethodConfig):
    """BiGAN's settings; the defaults are the paper's for ImageNet."""

    name: Literal["bigan"] = "bigan"
    latent_dim: int = Field(
        default=200, ge=1, description="numbers of a code, each uniform in [-1, 1]"
    )
    generator_width: int = Field(
        default=64, ge=1, description="channels of the generator's last stage; up to 8 times before"
    )
    discriminator_width: int = Field(
        default=64, ge=1, description="channels of the discriminator's first stage"
    )


class BiGAN(Method):
    """Encoder and generator, each the other's inverse, against a discriminator of pairs."""

    Config: ClassVar[type[MethodConfig]] = BiGANConfig
    small: ClassVar[MethodConfig] = BiGANConfig(
        latent_dim=6, generator_width=4, discriminator_width=4
    )
    view_groups: ClassVar[ViewGroups] = {PLAIN_VIEW: 1}
    adversarial: ClassVar[bool] = True
    accumulates: ClassVar[bool] = True

    @staticmethod
    def default_views(size: int) -> Views:
        """Make a single crop and flip, colours untouched."""
        return plain_views(size, (0.4, 1.0))

    def __init__(
        self, config: BiGANConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.latent_dim = config.latent_dim
        self.code = nn.Linear(self.encoder.embed_dim, config.latent_dim)
        self.generator = Generator(config.latent_dim, views.size, width=config.generator_width)
        self.discriminator = Discriminator(
            3, views.size, width=config.discriminator_width, beside=config.latent_dim
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Make pairs from both sides, and judge them.

        Returns:
            loss: Cross entropy of both kinds of pairs with the other kind, nats, summed; mean over
                the valid samples of all workers; 2 log 2 where the discriminator guesses.
            discriminator_loss: The same with their own kind.
            discriminator_top1: Share of pairs that it tells; 1 / 2 at chance.
            embedding: The encoder's output (B, D), detached; rows of invalid samples included.
        """
        images = batch["views"][PLAIN_VIEW][0]  # (B, 3, S, S)
        valid = batch["valid"]
        embedding = self.encoder(images)  # (B, D)
        code = self.code(embedding)
        drawn = self._draw(batch)
        made = self.made(drawn)
        fooled = taken_for_made(judged_by(self.discriminator, images, code))
        fooled = fooled + taken_for_real(judged_by(self.discriminator, made, drawn))
        of_real = self.discriminator(images, code.detach())
        of_made = self.discriminator(made.detach(), drawn)
        told = ((of_real > 0).float() + (of_made < 0).float()) / 2
        return {
            "loss": global_mean(fooled, valid),
            "discriminator_loss": global_mean(
                taken_for_real(of_real) + taken_for_made(of_made), valid
            ),
            "discriminator_top1": global_mean(told, valid),
            "embedding": embedding.detach(),
        }

    def _draw(self, batch: Batch) -> Tensor:
        """Draw a code for each sample, (B, latent_dim), keyed by it."""
        epoch = batch["epoch"]
        sample_id = batch["sample_id"]
        u = rng.uniform(
            self.latent_dim, seed=self.seed, epoch=epoch, sample_id=sample_id, view=0, op="code"
        )
        return (2 * u - 1).to(self.code.weight.dtype)

    def made(self, code: Tensor) -> Tensor:
        """Make normalised images (B, 3, S, S) of codes (B, latent_dim)."""
        return self.from_rgb(self.generator(code))

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, Tensor]:
        """Draw, once something is learnt, images of random codes, and of the images' own codes."""
        if self.progress == 0:
            return {}
        code = self.code(self.encoder(batch["views"][PLAIN_VIEW][0]))
        return {
            "of a random code": self.to_rgb(self.made(self._draw(batch)).float()),
            "of its own code": self.to_rgb(self.made(code).float()),
        }


class Generator(nn.Module):
    """Make images of codes: a linear layer to maps of 4 x 4, and their decoder.

    Args:
        latent_dim: Numbers of a code.
        size: Side of the images, px.
        width: Channels of the last stage.
    """

    def __init__(self, latent_dim: int, size: int, *, width: int) -> None:
        super().__init__()
        self.channels = _WIDEST * width
        self.first = nn.Linear(latent_dim, self.channels * _FIRST_SIDE**2)
        grid = (_FIRST_SIDE, _FIRST_SIDE)
        self.decoder = MapDecoder(self.channels, 3, grid, size, width=width)

    def forward(self, code: Tensor) -> Tensor:
        """Make RGB in [0, 1], (B, 3, size, size), of codes (B, latent_dim)."""
        maps = self.first(code).view(-1, self.channels, _FIRST_SIDE, _FIRST_SIDE)
        rgb: Tensor = self.decoder(maps).sigmoid()
        return rgb
