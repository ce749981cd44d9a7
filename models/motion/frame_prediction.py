"""Prediction of the next frame (Mathieu 2015, arXiv:1511.05440): the future from the recent past.

All frames of a clip but the last are encoded, and from their maps a decoder paints the last. To
know what comes next one has to know what is there and how such things move. Where several futures
are possible the squared error asks for their mean, which is blurred; the difference of neighbouring
pixels, compared as well, and the absolute error in place of the squared one ask for edges.
`frame_prediction_adversarial` adds a discriminator.

It cheats by copying: most of a frame is as it was before. So the decoder paints what changes
(`from_last`), and `beside_copying` tells how much better it is than a copy.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from augment.presets import PLAIN_VIEW, plain_views
from augment.recipe import Views
from models.blocks.map_decoder import MapDecoder
from models.collectives import global_mean
from models.encoders.factory import EncoderConfig
from models.generative.context_encoder import gradient_energy
from models.method import Batch, Media, Method, MethodConfig, ViewGroups

Norm = Literal["l1", "l2"]


class FramePredictionConfig(MethodConfig):
    """Settings of the prediction of frames."""

    name: Literal["frame_prediction"] = "frame_prediction"
    norm: Norm = Field(default="l2", description="error of a value: l1, absolute; l2, squared")
    gradient_weight: float = Field(
        default=1.0,
        ge=0,
        description=(
            "weight of the error of differences of neighbouring pixels (the paper's GDL, alpha 1)"
        ),
    )
    from_last: bool = Field(
        default=True,
        description="paint what changes since the frame before, and not the whole frame",
    )
    num_past: int = Field(default=4, ge=1, description="frames that the last is told from")
    decoder_width: int = Field(
        default=32, ge=1, description="channels of the decoder's last stage; up to 8 times before"
    )


class FramePrediction(Method):
    """Encoder of past frames, decoder of the next one, and its error.

    Raises:
        ValueError: the encoder gives no maps that hold all its embedding is made of.
    """

    Config: ClassVar[type[MethodConfig]] = FramePredictionConfig
    small: ClassVar[MethodConfig] = FramePredictionConfig(decoder_width=4)
    view_groups: ClassVar[ViewGroups] = {PLAIN_VIEW: 1}
    media: ClassVar[Media] = "clip"
    accumulates: ClassVar[bool] = True

    @staticmethod
    def default_views(size: int) -> Views:
        """Make a single crop and flip, colours untouched."""
        return plain_views(size, (0.4, 1.0))

    def __init__(
        self, config: FramePredictionConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.encoder.require("trainable_maps", by=f"method.name={config.name}")
        self.norm = config.norm
        self.gradient_weight = config.gradient_weight
        self.num_past = config.num_past
        self.from_last = config.from_last
        self.apart = self.encoder.supports("frames")
        with torch.no_grad():
            self.encoder.eval()
            blank = torch.zeros(1, config.num_past, 3, views.size, views.size)
            maps, _ = self._past(blank)
            self.encoder.train()
        dim = self.encoder.map_dim
        self.join = nn.Conv2d(maps.shape[1], dim, kernel_size=1)
        grid = (maps.shape[2], maps.shape[3])
        self.decoder = MapDecoder(dim, 3, grid, views.size, width=config.decoder_width)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Paint the last frame from those before it.

        Returns:
            loss: Error of a value, in units of the normalised image, and of differences of
                neighbouring pixels; mean over the frame and the global batch's valid samples.
            beside_copying: Squared error, as a share of what copying the frame before would make;
                1 where nothing is foreseen.
            sharpness: Gradient energy of what was painted, as a share of the true frame's.
            embedding: Of the past (B, D), detached; rows of invalid samples included.

        Raises:
            ValueError: clips have too few frames.
        """
        frames, painted, embedding = self._paint(batch)
        return {
            "loss": global_mean(self._error(painted, frames[:, -1]), batch["valid"]),
            **self._judged(frames, painted.detach(), batch["valid"]),
            "embedding": embedding,
        }

    def _paint(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the frames (B, P + 1, 3, S, S) and the painted one in float32, and embeddings."""
        clips = batch["views"][PLAIN_VIEW][0]  # (B, T, 3, S, S)
        if clips.shape[1] <= self.num_past:
            raise ValueError(
                f"method.num_past={self.num_past} needs clip.num_frames>={self.num_past + 1}"
            )
        frames = clips[:, : self.num_past + 1]
        maps, embedding = self._past(frames[:, :-1])
        painted = self.decoder(self.join(maps)).float()
        if self.from_last:
            painted = painted + frames[:, -2].float()
        return frames.float(), painted, embedding

    def _past(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Return maps of past frames, those of each frame side by side where the encoder sees them
        one by one, and embeddings (B, D), detached."""
        if not self.apart:
            maps = self.encoder.maps(clips)
            return maps, self.encoder.pool(maps).detach()
        each = self.encoder.maps(clips.flatten(0, 1).unsqueeze(1))  # (B * P, D, h, w)
        embedding = self.encoder.pool(each).detach().unflatten(0, clips.shape[:2]).mean(dim=1)
        return each.unflatten(0, clips.shape[:2]).flatten(1, 2), embedding

    def _error(self, painted: Tensor, true: Tensor) -> Tensor:
        """Return each sample's error, (B,)."""
        apart = (painted - true).abs()
        value = (apart if self.norm == "l1" else apart.square()).mean(dim=(1, 2, 3))
        return value + self.gradient_weight * gradient_difference(painted, true)

    @torch.no_grad()
    def _judged(self, frames: Tensor, painted: Tensor, valid: Tensor) -> dict[str, Tensor]:
        """Compare what was painted with the true frame, for the log."""
        true = frames[:, -1]
        smallest = torch.finfo(true.dtype).eps
        mine, copied = (
            global_mean((guess - true).square().mean(dim=(1, 2, 3)), valid)
            for guess in (painted, frames[:, -2])
        )
        everywhere = torch.ones_like(true[:, :1], dtype=torch.bool)
        sharp, as_sharp = (
            global_mean(gradient_energy(picture, everywhere), valid) for picture in (painted, true)
        )
        return {
            "beside_copying": mine / copied.clamp(min=smallest),
            "sharpness": sharp / as_sharp.clamp(min=smallest),
        }

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, Tensor]:
        """Draw the frame before, the one that comes and, once something is learnt, the painted
        one."""
        frames, painted, _ = self._paint(batch)
        shown = {"before": self.to_rgb(frames[:, -2]), "next": self.to_rgb(frames[:, -1])}
        if self.progress > 0:
            shown["foreseen"] = self.to_rgb(painted)
        return shown


def gradient_difference(painted: Tensor, true: Tensor) -> Tensor:
    """Compare the sizes of the differences of neighbouring pixels (the paper's equation 6, alpha
    1).

    Args:
        painted: (B, C, S, S).
        true: The same.

    Returns:
        (B,), the mean absolute difference, downwards and to the right, summed.
    """
    total = painted.new_zeros(len(painted))
    for axis in (2, 3):
        mine, wanted = (picture.diff(dim=axis).abs() for picture in (painted, true))
        total = total + (mine - wanted).abs().mean(dim=(1, 2, 3))
    return total
