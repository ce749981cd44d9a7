"""Masked autoencoder of clips (Tong 2022, arXiv:2203.12602; v2 Wang 2023, arXiv:2303.16727).

Nine tenths of a clip's tubelets, squares of two frames, are hidden, and a light decoder paints
them. Frames of a clip are nearly alike, so it hides far more than of an image, and the same places
at every instant: with masks of its own in each frame, what is hidden in one could be copied from
the next. It sees nothing of order where nothing moves. Targets are normalised tubelet by tubelet,
as those of images.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from augment.masking import MaskKey, hide_first, random_mask, tube_mask, visible_tokens
from augment.presets import PLAIN_VIEW
from augment.recipe import Views
from models.blocks.patchify import clips_of, tubelets
from models.encoders.encoder import Tokens
from models.encoders.factory import EncoderConfig
from models.masked.mae import MAE, MAEConfig
from models.method import Batch, Media, MethodConfig
from models.temporal.film import film

_GREY = 0.5


class VideoMAEConfig(MAEConfig):
    """VideoMAE's settings; the defaults are the paper's for ViT-B."""

    name: Literal["videomae"] = "videomae"  # type: ignore[assignment]
    mask_ratio: float = Field(
        default=0.9, gt=0.0, lt=1.0, description="fraction of the tubelets hidden from the encoder"
    )
    masks: Literal["tube", "random"] = Field(
        default="tube",
        description=(
            "tube: the same places are hidden at every instant; random: each tubelet by itself,"
            " which can be copied from another frame"
        ),
    )
    decoder_share: float = Field(
        default=1.0,
        gt=0.0,
        le=1.0,
        description=(
            "share of the hidden tubelets that the decoder paints and sees, drawn anew each time:"
            " 0.5 in v2"
        ),
    )
    decoder_dim: int = Field(
        default=384, ge=4, multiple_of=4, description="features of the decoder's tokens"
    )
    decoder_depth: int = Field(default=4, ge=1, description="transformer blocks of the decoder")
    decoder_heads: int = Field(
        default=6, ge=1, description="attention heads of the decoder; divides decoder_dim"
    )


class VideoMAE(MAE):
    """Transformer on the visible tubelets, decoder, and squared error on the hidden ones.

    Raises:
        ValueError: the encoder gives no tokens of tubelets.
    """

    Config: ClassVar[type[MethodConfig]] = VideoMAEConfig
    small: ClassVar[MethodConfig] = VideoMAEConfig(decoder_dim=32, decoder_depth=1, decoder_heads=2)
    media: ClassVar[Media] = "clip"

    def __init__(
        self, config: VideoMAEConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.masks = config.masks
        self.decoder_share = config.decoder_share

    def _patch_dim(self) -> int:
        return self.encoder.tubelet * super()._patch_dim()

    def _cut(self, images: Tensor) -> Tensor:
        return tubelets(images, self.patch_size, self.encoder.tubelet)

    def _predict(self, images: Tensor, batch: Batch) -> tuple[Tensor, Tokens, Tensor]:
        """Predict tubelets: the mask (B, N) bool of those that are judged, visible tokens and (B,
        N, P)."""
        return self._predict_share(images, batch, self.decoder_share)

    def _predict_share(
        self, clips: Tensor, batch: Batch, share: float
    ) -> tuple[Tensor, Tokens, Tensor]:
        key = MaskKey(self.seed, batch["epoch"], batch["sample_id"])
        num_places = self.encoder.num_patches
        times = clips.shape[1] // self.encoder.tubelet
        if self.masks == "tube":
            keep, mask = tube_mask(num_places, times, self.mask_ratio, key)
        else:
            keep, mask = random_mask(num_places * times, self.mask_ratio, key)
        visible = self.encoder.tokens(clips, keep)
        if share == 1:
            return mask, visible, self.decoder(visible.patches, keep, times=times)
        num_hidden = mask.shape[1] - keep.shape[1]
        num_wanted = max(1, round(share * num_hidden))
        scores = key.uniform(mask.shape[1], "decoded").masked_fill(~mask, 1.0)
        judged = hide_first(scores, num_wanted)
        wanted = visible_tokens(~judged, num_wanted)
        told = self.decoder(visible.patches, keep, times=times, wanted=wanted)
        places = wanted.unsqueeze(-1).expand_as(told)
        everywhere = told.new_zeros(*mask.shape, told.shape[-1]).scatter(1, places, told)
        return judged, visible, everywhere

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, Tensor]:
        """Draw four frames of each clip with hidden tubelets grey and, once something is learnt,
        painted; brightness and contrast of a tubelet are the clip's own."""
        clips = batch["views"][PLAIN_VIEW][0]
        mask, _, prediction = self._predict_share(clips, batch, 1.0)
        target, mean, deviation = self._targets(clips)
        truth = target * deviation + mean  # (B, N, P)
        hidden = mask.unsqueeze(-1)
        seen = self._frames(hidden.expand_as(truth).to(truth.dtype))
        rgb = self.to_rgb(clips.float())
        shown = {"visible": film(torch.where(seen > 0, _GREY, rgb))}
        if self.progress > 0:
            painted = torch.where(hidden, prediction.float() * deviation + mean, truth)
            shown["painted"] = film(self.to_rgb(self._frames(painted)))
        return shown

    def _frames(self, rows: Tensor) -> Tensor:
        return clips_of(rows, self.grid, self.patch_size, self.encoder.tubelet)
