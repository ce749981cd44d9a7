"""Autoregression (van den Oord 2016, arXiv:1601.06759; iGPT, Chen 2020, ICML).

An image is read patch by patch in a fixed order, and each next patch is predicted from those
before. The transformer sees the past alone, by a causal mask, so all patches of an image are
predicted in one pass. What predicts best is at the end of the network, and what serves best is in
its middle (iGPT, figure 2), where the image has been understood and not yet been turned into the
next patch. So the encoder is the first half, with a causal mask of its own (`encoder.causal`), and
the second half, as deep as the first unless said otherwise, is a decoder that is thrown away.

It cannot collapse, as its target is the image. It cheats where the next patch goes on like the
last: lines and colours are continued, and nothing is understood. Patches are therefore normalised,
as MAE's are; larger patches and `ahead`, which skips some, leave less to continue.

iGPT predicts one of 512 colours of each pixel; here the error of a patch's pixels is squared, as in
AIM (arXiv:2401.08541), so that patches of any size serve. Views of 8 px and `vit_tiny_small` have
patches of one pixel.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from augment.presets import PLAIN_VIEW, plain_views
from augment.recipe import Views
from models.blocks.patchify import patchify, unpatchify
from models.collectives import global_mean
from models.encoders.factory import EncoderConfig
from models.method import Batch, Method, MethodConfig, ViewGroups

_HEAD_DIM = 64
_VARIANCE_FLOOR = 1e-6
_GREY = 0.5


class AutoregressiveConfig(MethodConfig):
    """The settings of autoregression."""

    name: Literal["autoregressive"] = "autoregressive"
    ahead: int = Field(
        default=1, ge=1, description="which patch is predicted: 1 is the next; below the patches"
    )
    decoder_depth: int | None = Field(
        default=None,
        ge=1,
        description="transformer blocks after the encoder; null: as many as it has itself",
    )
    norm_pixels: bool = Field(
        default=True, description="normalise each target patch by its own mean and deviation"
    )


class Autoregressive(Method):
    """A causal encoder, a causal decoder, and the squared error of the patches to come.

    Raises:
        ValueError: the encoder sees the whole image at every patch, or `ahead` is past the last
            patch.
    """

    Config: ClassVar[type[MethodConfig]] = AutoregressiveConfig
    small: ClassVar[MethodConfig] = AutoregressiveConfig(decoder_depth=1)
    view_groups: ClassVar[ViewGroups] = {PLAIN_VIEW: 1}
    accumulates: ClassVar[bool] = True

    @staticmethod
    def default_views(size: int) -> Views:
        """Make a single crop and flip, colours untouched."""
        return plain_views(size, (0.4, 1.0))

    def __init__(
        self, config: AutoregressiveConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.encoder.require("causal", by="method.name=autoregressive")
        if config.ahead >= self.encoder.num_patches:
            raise ValueError(
                f"method.ahead must be below the {self.encoder.num_patches} patches of an image,"
                f" got {config.ahead}"
            )
        self.ahead = config.ahead
        self.norm_pixels = config.norm_pixels
        self.patch_size = self.encoder.patch_size
        dim = self.encoder.embed_dim
        depth = self.encoder.depth if config.decoder_depth is None else config.decoder_depth
        self.decoder = CausalDecoder(dim, 3 * self.patch_size**2, depth)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Predict each patch from those before it.

        Returns:
            loss: Squared error per pixel of the predicted patches, mean over the valid samples of
                all workers. With `norm_pixels` in units of each patch's variance, where predicting
                every patch's mean gives about 1.
            copy_error: The same where each patch is predicted to be the one that was seen last.
            embedding: Of the encoder, the middle of the whole (B, D), detached; rows of invalid
                samples included.
        """
        images = batch["views"][PLAIN_VIEW][0]  # (B, 3, S, S)
        target, _, _ = self._targets(images)
        predicted, embedding = self._predict(images)
        to_come = target[:, self.ahead :]
        error = (predicted[:, : -self.ahead].float() - to_come).square().mean((1, 2))  # (B,)
        copied = (target[:, : -self.ahead] - to_come).square().mean((1, 2))
        return {
            "loss": global_mean(error, batch["valid"]),
            "copy_error": global_mean(copied, batch["valid"]),
            "embedding": embedding,
        }

    @property
    def sequence(self) -> Tensor:
        """Return the patches in their order, as places of the raster, (N,) int64."""
        sequence = self.encoder.sequence
        assert isinstance(sequence, Tensor), "the encoder is causal"
        return sequence

    def _predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return at each patch, in their order, what comes `ahead` of it, (B, N, 3 *
        patch_size^2), and the embeddings."""
        maps = self.encoder.maps(images)
        tokens = maps.flatten(2).transpose(1, 2)[:, self.sequence]  # (B, N, D)
        return self.decoder(tokens), self.encoder.pool(maps).detach()

    def _targets(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the patches in their order, (B, N, P) float32, and their mean and deviation."""
        patches = patchify(images.float(), self.patch_size)[:, self.sequence]
        if not self.norm_pixels:
            zero = patches.new_zeros(*patches.shape[:2], 1)
            return patches, zero, zero + 1
        variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
        deviation = (variance + _VARIANCE_FLOOR).sqrt()
        return (patches - mean) / deviation, mean, deviation

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, Tensor]:
        """Draw, once something is learnt, each patch as it was predicted from the true ones before
        it; the first, which nothing comes before, are grey.

        Predictions of normalised patches are given the mean and deviation of the true patch.
        """
        if self.progress == 0:
            return {}
        images = batch["views"][PLAIN_VIEW][0]
        _, mean, deviation = self._targets(images)
        predicted, _ = self._predict(images)
        ahead = self.ahead
        painted = predicted[:, :-ahead].float() * deviation[:, ahead:] + mean[:, ahead:]
        begun = painted.new_zeros(len(images), self.encoder.num_patches, painted.shape[2])
        place = self.sequence[ahead:]
        drawn = unpatchify(begun.index_copy(1, place, painted), self.encoder.grid, self.patch_size)
        known = torch.zeros_like(begun).index_fill(1, self.sequence[:ahead], 1.0)
        covered = unpatchify(known, self.encoder.grid, self.patch_size) > 0
        return {"predicted": self.to_rgb(drawn).masked_fill(covered, _GREY)}


class CausalDecoder(nn.Module):
    """Go on from tokens in their order to what comes after them.

    Args:
        dim: Features D of a token.
        out_dim: Numbers predicted at each.
        depth: Transformer blocks.
    """

    def __init__(self, dim: int, out_dim: int, depth: int) -> None:
        from timm.models.vision_transformer import Block  # here, as timm takes seconds to import

        super().__init__()
        heads = max(1, dim // _HEAD_DIM)
        while dim % heads:
            heads -= 1
        self.blocks = nn.ModuleList(Block(dim, heads, qkv_bias=True) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.predict = nn.Linear(dim, out_dim)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Predict (B, N, out_dim) at tokens (B, N, D), each from itself and those before it."""
        for block in self.blocks:
            tokens = block(tokens, is_causal=True)
        predicted: Tensor = self.predict(self.norm(tokens))
        return predicted
