"""Masked autoencoder (He 2022, arXiv:2111.06377).

Three quarters of the patches are hidden, the encoder sees only the rest, and a light decoder that
is thrown away paints the hidden ones. Hiding most of the image makes it more than interpolation;
leaving the hidden patches out of the encoder makes it cheap. It cheats where the loss also counts
visible patches (copying is easy), and learns little of texture where the targets are raw pixels:
hence each patch is normalised by its own mean and deviation.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from augment.masking import MaskKey, random_mask
from augment.presets import PLAIN_VIEW, plain_views
from augment.recipe import Views
from models.blocks.patchify import cover, patchify, unpatchify
from models.blocks.token_decoder import TokenDecoder
from models.collectives import global_mean
from models.encoders.encoder import Tokens
from models.encoders.factory import EncoderConfig
from models.method import Batch, Method, MethodConfig, ViewGroups

_VARIANCE_FLOOR = 1e-6


class MAEConfig(MethodConfig):
    """MAE's settings; the defaults are the paper's for ViT-L on ImageNet."""

    name: Literal["mae"] = "mae"
    mask_ratio: float = Field(
        default=0.75, gt=0.0, lt=1.0, description="fraction of the patches hidden from the encoder"
    )
    decoder_dim: int = Field(
        default=512, ge=4, multiple_of=4, description="features of the decoder's tokens"
    )
    decoder_depth: int = Field(default=8, ge=1, description="transformer blocks of the decoder")
    decoder_heads: int = Field(
        default=16, ge=1, description="attention heads of the decoder; divides decoder_dim"
    )
    norm_pixels: bool = Field(
        default=True, description="normalise each target patch by its own mean and deviation"
    )

    @model_validator(mode="after")
    def _heads_divide(self) -> "MAEConfig":
        if self.decoder_dim % self.decoder_heads:
            raise ValueError(
                "method.decoder_dim must be a multiple of"
                f" method.decoder_heads={self.decoder_heads}, got {self.decoder_dim}"
            )
        return self


class MAE(Method):
    """ViT encoder on the visible patches, decoder, and squared error on the hidden ones.

    Raises:
        ValueError: the encoder gives no patch tokens.
    """

    Config: ClassVar[type[MethodConfig]] = MAEConfig
    small: ClassVar[MethodConfig] = MAEConfig(decoder_dim=32, decoder_depth=1, decoder_heads=2)
    view_groups: ClassVar[ViewGroups] = {PLAIN_VIEW: 1}
    accumulates: ClassVar[bool] = True
    trains_patches: ClassVar[bool] = True

    @staticmethod
    def default_views(size: int) -> Views:
        """Make the single crop and flip of the paper (appendix A.1), colours untouched."""
        return plain_views(size, (0.2, 1.0))

    def __init__(
        self, config: MAEConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.encoder.require("tokens", by="method.name=mae")
        self.mask_ratio = config.mask_ratio
        self.norm_pixels = config.norm_pixels
        self.grid = self.encoder.grid
        self.patch_size = self.encoder.patch_size
        self.decoder = TokenDecoder(
            self.encoder.embed_dim,
            self._patch_dim(),
            self.grid,
            dim=config.decoder_dim,
            depth=config.decoder_depth,
            num_heads=config.decoder_heads,
        )

    def _patch_dim(self) -> int:
        """Return the values of a patch."""
        return 3 * self.patch_size**2

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Predict the hidden patches.

        Returns:
            loss: Squared error per pixel of the hidden patches, mean over the valid samples of all
                workers, scaled so that the average over workers is that mean. With `norm_pixels` in
                units of each patch's variance, where predicting every patch's mean gives about 1;
                else in units of the normalised image.
            embedding: Of the visible patches (B, D), detached; rows of invalid samples included.
        """
        images = batch["views"][PLAIN_VIEW][0]  # (B, 3, S, S)
        mask, visible, prediction = self._predict(images, batch)
        target, _, _ = self._targets(images)
        error = (prediction.float() - target).square().mean(dim=-1)  # (B, N)
        per_sample = (error * mask).sum(dim=1) / mask.sum(dim=1)  # (B,)
        return {
            "loss": global_mean(per_sample, batch["valid"]),
            "embedding": self.encoder.pool(visible).detach(),
        }

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, Tensor]:
        """Draw the images with hidden patches grey and, once something is learnt, painted.

        Predictions of normalised patches are given the mean and deviation of the true patch:
        brightness and contrast of a hidden patch are therefore the image's own, its structure is
        the model's.
        """
        images = batch["views"][PLAIN_VIEW][0]
        mask, _, prediction = self._predict(images, batch)
        target, mean, deviation = self._targets(images)
        truth = target * deviation + mean  # (B, N, 3 * patch_size^2)
        hidden = mask.unsqueeze(-1)
        painted = torch.where(hidden, prediction.float() * deviation + mean, truth)
        shown = {"visible": cover(self.to_rgb(images.float()), mask, self.patch_size)}
        if self.progress > 0:
            shown["painted"] = self.to_rgb(unpatchify(painted, self.grid, self.patch_size))
        return shown

    def _predict(self, images: Tensor, batch: Batch) -> tuple[Tensor, Tokens, Tensor]:
        """Predict all patches; the mask (B, N) bool, visible tokens and (B, N, 3 *
        patch_size^2)."""
        keep, mask = random_mask(
            self.encoder.num_patches,
            self.mask_ratio,
            MaskKey(self.seed, batch["epoch"], batch["sample_id"]),
        )
        visible = self.encoder.tokens(images, keep)
        return mask, visible, self.decoder(visible.patches, keep)

    def _targets(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return target patches (B, N, P) float32, and their mean and deviation, (B, N, 1) each."""
        patches = self._cut(images.float())
        if not self.norm_pixels:
            zero = patches.new_zeros(*patches.shape[:2], 1)
            return patches, zero, zero + 1
        variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
        deviation = (variance + _VARIANCE_FLOOR).sqrt()
        return (patches - mean) / deviation, mean, deviation

    def _cut(self, images: Tensor) -> Tensor:
        """Cut images into patches (B, N, P)."""
        return patchify(images, self.patch_size)
