"""SimMIM (Xie 2022, arXiv:2111.09886).

Large squares of the image are hidden behind one learned token, the encoder sees them as places
without content, and a single linear layer paints their raw pixels. Squares of 32 px are what makes
it a task: with single patches hidden, the neighbours' edges nearly tell the answer. It cheats where
the loss also counts visible pixels (copying is easy). The light head leaves the work to the
encoder, which pays for the hidden places too: nothing is left out of it.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from augment.masking import MaskKey, coarse_mask
from augment.presets import PLAIN_VIEW, plain_views
from augment.recipe import Views
from models.blocks.patchify import cover, patchify, unpatchify
from models.collectives import global_mean
from models.encoders.encoder import Hidden, Tokens
from models.encoders.factory import EncoderConfig
from models.method import Batch, Method, MethodConfig, ViewGroups


class SimMIMConfig(MethodConfig):
    """SimMIM's settings; the defaults are the paper's for ViT-B on ImageNet."""

    name: Literal["simmim"] = "simmim"
    mask_ratio: float = Field(
        default=0.6, gt=0.0, lt=1.0, description="fraction of the squares that are hidden"
    )
    mask_size: int = Field(
        default=32, ge=1, description="side of a hidden square, px: a multiple of the patch size"
    )


class SimMIM(Method):
    """ViT encoder with a mask token, a linear head, and absolute error on the hidden pixels.

    Raises:
        ValueError: the encoder gives no patch tokens, or squares do not fit its patches.
    """

    Config: ClassVar[type[MethodConfig]] = SimMIMConfig
    small: ClassVar[MethodConfig] = SimMIMConfig(mask_size=4)
    view_groups: ClassVar[ViewGroups] = {PLAIN_VIEW: 1}
    accumulates: ClassVar[bool] = True
    trains_patches: ClassVar[bool] = True

    @staticmethod
    def default_views(size: int) -> Views:
        """Make the single crop and flip of the paper (section 4.1)."""
        return plain_views(size, (0.67, 1.0))

    def __init__(
        self, config: SimMIMConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.encoder.require("tokens", by="method.name=simmim")
        self.mask_ratio = config.mask_ratio
        self.grid = self.encoder.grid
        self.patch_size = self.encoder.patch_size
        if config.mask_size % self.patch_size or views.size % config.mask_size:
            raise ValueError(
                f"method.mask_size must be a multiple of the patches' {self.patch_size} px and"
                f" divide views.size={views.size}, got {config.mask_size}"
            )
        self.unit = config.mask_size // self.patch_size
        self.mask_token = nn.Parameter(torch.empty(self.encoder.embed_dim))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.predict = nn.Linear(self.encoder.embed_dim, 3 * self.patch_size**2)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Paint the hidden squares.

        Returns:
            loss: Absolute error per value of the hidden pixels, in units of the normalised image,
                mean over the valid samples of all workers, scaled so that the average over workers
                is that mean. Predicting the image's mean colour gives about 0.8 on photographs.
            embedding: Of the image with its hidden squares (B, D), detached; rows of invalid
                samples included.
        """
        images = batch["views"][PLAIN_VIEW][0]  # (B, 3, S, S)
        mask, tokens, prediction = self._predict(images, batch)
        target = patchify(images.float(), self.patch_size)
        error = (prediction.float() - target).abs().mean(dim=-1)  # (B, N)
        per_sample = (error * mask).sum(dim=1) / mask.sum(dim=1)  # (B,)
        return {
            "loss": global_mean(per_sample, batch["valid"]),
            "embedding": self.encoder.pool(tokens).detach(),
        }

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, Tensor]:
        """Draw the images with hidden squares grey and, once something is learnt, painted."""
        images = batch["views"][PLAIN_VIEW][0]
        mask, _, prediction = self._predict(images, batch)
        shown = {"visible": cover(self.to_rgb(images.float()), mask, self.patch_size)}
        if self.progress > 0:
            truth = patchify(images.float(), self.patch_size)
            painted = torch.where(mask.unsqueeze(-1), prediction.float(), truth)
            shown["painted"] = self.to_rgb(unpatchify(painted, self.grid, self.patch_size))
        return shown

    def _predict(self, images: Tensor, batch: Batch) -> tuple[Tensor, Tokens, Tensor]:
        """Predict all patches: the mask (B, N) bool, tokens, and (B, N, 3 * patch_size^2)."""
        key = MaskKey(self.seed, batch["epoch"], batch["sample_id"])
        mask = coarse_mask(self.grid, self.unit, self.mask_ratio, key)
        tokens = self.encoder.tokens(images, hidden=Hidden(mask, self.mask_token))
        return mask, tokens, self.predict(tokens.patches)
