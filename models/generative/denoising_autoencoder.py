"""Denoising autoencoder (Vincent 2008; as a generative model arXiv:1305.6663).

The encoder sees a corrupted image and the decoder paints the clean one. To undo the damage one has
to know what images are like, so no bottleneck is needed: the corruption is what keeps it from
copying. Without any, the identity is the answer.

What is hidden may be drawn, or be a side of the image: the top told from the bottom, or, in raster
order, the past from the present. Hidden pixels are 0, the corpus' mean colour. An encoder may learn
to see the damage rather than the picture; its features are then poorer on clean images.
"""

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from augment.masking import (
    MaskKey,
    Order,
    block_mask,
    drawn_num_hidden,
    hide_first,
    ordered_mask,
)
from augment.ops import FractionRange
from augment.presets import PLAIN_VIEW, plain_views
from augment.recipe import Views
from models.blocks.map_decoder import MapDecoder, map_grid
from models.collectives import global_mean
from models.encoders.factory import EncoderConfig
from models.method import Batch, Method, MethodConfig, ViewGroups

HidesWhat = Literal["none", "random", "blocks", Order]


class DenoisingAutoencoderConfig(MethodConfig):
    """The denoising autoencoder's settings; the paper hides a quarter of the pixels of digits."""

    name: Literal["denoising_autoencoder"] = "denoising_autoencoder"
    noise_std: float = Field(
        default=0.0,
        ge=0.0,
        description="standard deviation of the noise on every value, of the normalised image",
    )
    mask: HidesWhat = Field(
        default="random",
        description=(
            "what is hidden: squares at random, blocks of them, a side that is told from the other,"
            " or in raster order the past or the future"
        ),
    )
    mask_size: int = Field(
        default=16, ge=1, description="side of a square, px; divides the view's side"
    )
    mask_ratio: FractionRange = Field(
        default=(0.25, 0.25), description="least and greatest share of the image that is hidden"
    )
    visible_weight: float = Field(
        default=1.0, ge=0.0, description="weight of the error where nothing was hidden; there 1"
    )
    decoder_width: int = Field(
        default=64, ge=1, description="channels of the decoder's last stage; up to 8 times before"
    )

    def idle(self) -> dict[str, str]:
        """Return what has no effect where nothing is hidden."""
        if self.mask != "none":
            return {}
        return dict.fromkeys(("mask_size", "mask_ratio", "visible_weight"), "mask")

    @model_validator(mode="after")
    def _leaves_something(self) -> "DenoisingAutoencoderConfig":
        if self.mask != "none" and self.mask_ratio[1] >= 1:
            raise ValueError(f"method.mask_ratio must stay below 1, got {self.mask_ratio[1]}")
        return self


class DenoisingAutoencoder(Method):
    """Encoder of the corrupted image, decoder of the clean one, and squared error.

    Raises:
        ValueError: the encoder gives no maps that hold all its embedding is made of, or squares do
            not divide the image.
    """

    Config: ClassVar[type[MethodConfig]] = DenoisingAutoencoderConfig
    small: ClassVar[MethodConfig] = DenoisingAutoencoderConfig(
        decoder_width=4, mask_size=4, noise_std=0.1
    )
    view_groups: ClassVar[ViewGroups] = {PLAIN_VIEW: 1}
    accumulates: ClassVar[bool] = True

    @staticmethod
    def default_views(size: int) -> Views:
        """Make a single crop and flip, colours untouched."""
        return plain_views(size, (0.4, 1.0))

    def __init__(
        self,
        config: DenoisingAutoencoderConfig,
        encoder_config: EncoderConfig,
        views: Views,
        seed: int,
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.encoder.require("trainable_maps", by="method.name=denoising_autoencoder")
        if config.mask != "none" and views.size % config.mask_size:
            raise ValueError(
                f"method.mask_size must divide views.size={views.size}, got {config.mask_size}"
            )
        self.settings = config
        self.grid = (views.size // config.mask_size, views.size // config.mask_size)
        self.decoder = MapDecoder(
            self.encoder.map_dim,
            3,
            map_grid(self.encoder, views.size),
            views.size,
            width=config.decoder_width,
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Paint the clean images.

        Returns:
            loss: Squared error of a pixel's channel in units of the normalised image, what was not
                hidden weighted, mean over pixels and the valid samples of all workers, scaled so
                that the average over workers is that mean. Painting the corpus' mean colour gives
                about 1.
            hidden_error: The same where pixels were hidden alone; 0 where none were.
            embedding: Of the corrupted images (B, D), detached; rows of invalid samples included.
        """
        images = batch["views"][PLAIN_VIEW][0]  # (B, 3, S, S)
        corrupted, hidden = self._corrupt(images, batch)
        maps = self.encoder.maps(corrupted)
        painted = self.decoder(maps).float()
        error = (painted - images.float()).square().mean(1, keepdim=True)  # (B, 1, S, S)
        elsewhere = 1.0 if self.settings.mask == "none" else self.settings.visible_weight
        weight = torch.where(hidden, 1.0, elsewhere)
        per_sample = (error * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3)).clamp(min=1e-6)
        there = (error.detach() * hidden).sum((1, 2, 3)) / hidden.sum((1, 2, 3)).clamp(min=1)
        return {
            "loss": global_mean(per_sample, batch["valid"]),
            "hidden_error": global_mean(there, batch["valid"]),
            "embedding": self.encoder.pool(maps).detach(),
        }

    def _corrupt(self, images: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return corrupted images and which pixels are hidden, (B, 1, S, S) bool."""
        config = self.settings
        key = MaskKey(self.seed, batch["epoch"], batch["sample_id"])
        if config.noise_std:
            draws = key.uniform(images[0].numel(), "noise").view(images.shape)
            # (0, 1), and by the inverse of the normal distribution
            normal = math.sqrt(2) * torch.erfinv(2 * draws - 1 + 2**-24)
            images = images + config.noise_std * normal.to(images.dtype)
        if config.mask == "none":
            return images, torch.zeros_like(images[:, :1], dtype=torch.bool)
        num_tokens = self.grid[0] * self.grid[1]
        count = drawn_num_hidden(num_tokens, config.mask_ratio, 1.0, key)
        if config.mask == "random":
            mask = hide_first(key.uniform(num_tokens, "mask"), count)
        elif config.mask == "blocks":
            mask = block_mask(self.grid, count, key, min_block=1)
        else:
            mask = ordered_mask(self.grid, count, config.mask, key)
        squares = mask.view(-1, 1, *self.grid)
        side = config.mask_size
        hidden = squares.repeat_interleave(side, 2).repeat_interleave(side, 3)
        return images.masked_fill(hidden, 0.0), hidden

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, Tensor]:
        """Draw the corrupted images and, once something is learnt, the painted ones."""
        images = batch["views"][PLAIN_VIEW][0]
        corrupted, _ = self._corrupt(images, batch)
        shown = {"corrupted": self.to_rgb(corrupted.float())}
        if self.progress > 0:
            painted = self.decoder(self.encoder.maps(corrupted)).float()
            shown["painted"] = self.to_rgb(painted)
        return shown
