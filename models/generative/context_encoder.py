"""Context encoder (Pathak 2016, arXiv:1604.07379), by its reconstruction loss alone.

A region of the image is hidden, and the encoder's maps of the rest must tell a decoder what was
there: to fill in the middle of a picture one has to know what it is of. Convolutions do not reach
from one end of the image to the other, so each channel of the maps first passes through a layer
that joins all its places (the paper's channel-wise fully connected layer); attention reaches by
itself.

It cheats at the border, where continuing a few lines is enough. So the decoder also paints a rim of
the context, 7 px of 128 wide, whose error counts ten times: what is painted must fit what is
around, and the rest of the loss is about the inside. An encoder may also learn to see the hole
rather than the picture; holes of random shape (`mask` blocks and region) are the paper's answer,
and transfer better than the central one.

Squared error paints the mean of all that could be there, which is blurred;
`context_encoder_adversarial` does not. For features the paper trains with this loss alone.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from augment.presets import PLAIN_VIEW, plain_views
from augment.recipe import Views
from models.blocks.map_decoder import MapDecoder, map_grid
from models.collectives import global_mean
from models.encoders.factory import EncoderConfig
from models.generative.pixel_masks import Shape, hidden_pixels, widen
from models.method import Batch, Method, MethodConfig, ViewGroups

_OVERLAP_SIDE = 128  # px, of the views that `overlap` refers to
_GREY = 0.5


class ContextEncoderConfig(MethodConfig):
    """The context encoder's settings; the defaults are the paper's."""

    name: Literal["context_encoder"] = "context_encoder"
    mask: Shape = Field(
        default="region",
        description=(
            "what is hidden: central, the middle quarter; blocks, rectangles; region, shapes"
            " without straight borders"
        ),
    )
    overlap: int = Field(
        default=7,
        ge=0,
        le=32,
        description=(
            "rim of the context that is painted too, px at views of 128 px, scaled to their size"
        ),
    )
    overlap_weight: float = Field(
        default=10.0,
        ge=0.0,
        description="weight of the rim's error; that of the hidden pixels is 1",
    )
    decoder_width: int = Field(
        default=64, ge=1, description="channels of the decoder's last stage; up to 8 times before"
    )


class ContextEncoder(Method):
    """Encoder of the context, decoder of the whole picture, squared error where it was hidden.

    Raises:
        ValueError: the encoder gives no maps that hold all its embedding is made of.
    """

    Config: ClassVar[type[MethodConfig]] = ContextEncoderConfig
    small: ClassVar[MethodConfig] = ContextEncoderConfig(decoder_width=4)
    view_groups: ClassVar[ViewGroups] = {PLAIN_VIEW: 1}
    accumulates: ClassVar[bool] = True

    @staticmethod
    def default_views(size: int) -> Views:
        """Make a single crop and flip, colours untouched."""
        return plain_views(size, (0.4, 1.0))

    def __init__(
        self, config: ContextEncoderConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.encoder.require("trainable_maps", by=f"method.name={config.name}")
        self.settings = config
        self.overlap = round(config.overlap * views.size / _OVERLAP_SIDE)
        if config.overlap:
            self.overlap = max(1, self.overlap)
        grid = map_grid(self.encoder, views.size)
        dim = self.encoder.map_dim
        self.join: nn.Module = nn.Identity()
        if not self.encoder.supports("tokens"):
            self.join = ChannelWise(dim, grid[0] * grid[1])
        self.decoder = MapDecoder(dim, 3, grid, views.size, width=config.decoder_width)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Paint what is hidden.

        Returns:
            loss: Squared error of a pixel's channel in the hidden region and its rim, the rim's
                weighted, in units of the normalised image; mean over the region, then over the
                valid samples of all workers.
            hidden_error: The same in the hidden region alone; where the mean colour is painted,
                the variance of the normalised pixels, about 1.
            sharpness: Gradient energy of what was painted there, as a share of the true pixels'; 1
                where it is as sharp as they are, 0 where it is flat.
            embedding: Of the images with the region hidden (B, D), detached; rows of invalid
                samples included.
        """
        images, hidden, painted, embedding = self._paint(batch)
        valid = batch["valid"]
        return {
            "loss": global_mean(self._error(images, hidden, painted), valid),
            **self._judged(images, hidden, painted.detach(), valid),
            "embedding": embedding,
        }

    def _paint(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return images, hidden pixels (B, 1, S, S), painted images in float32, and embeddings."""
        images = batch["views"][PLAIN_VIEW][0]  # (B, 3, S, S)
        hidden = hidden_pixels(
            self.settings.mask,
            images.shape[-1],
            seed=self.seed,
            epoch=batch["epoch"],
            sample_id=batch["sample_id"],
        )
        maps = self.encoder.maps(images.masked_fill(hidden, 0.0))  # 0 is the corpus' mean colour
        painted = self.decoder(self.join(maps)).float()
        return images.float(), hidden, painted, self.encoder.pool(maps).detach()

    def _error(self, images: Tensor, hidden: Tensor, painted: Tensor) -> Tensor:
        """Return each sample's weighted squared error, (B,)."""
        region = widen(hidden, self.overlap)
        weight = torch.where(hidden, 1.0, self.settings.overlap_weight) * region
        error = (painted - images).square().mean(1, keepdim=True)
        return (error * weight).sum((1, 2, 3)) / region.sum((1, 2, 3))

    @torch.no_grad()
    def _judged(
        self, images: Tensor, hidden: Tensor, painted: Tensor, valid: Tensor
    ) -> dict[str, Tensor]:
        """Compare hidden pixels with what was painted, for the log."""
        error = (painted - images).square().mean(1, keepdim=True)
        error = (error * hidden).sum((1, 2, 3)) / hidden.sum((1, 2, 3))
        mine, true = (
            global_mean(gradient_energy(picture, hidden), valid) for picture in (painted, images)
        )
        return {
            "hidden_error": global_mean(error, valid),
            "sharpness": mine / true.clamp(min=torch.finfo(true.dtype).eps),
        }

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, Tensor]:
        """Draw the images with the hidden region grey and, once something is learnt, painted."""
        images, hidden, painted, _ = self._paint(batch)
        shown = {"context": self.to_rgb(images).masked_fill(hidden, _GREY)}
        if self.progress > 0:
            shown["filled in"] = self.to_rgb(torch.where(hidden, painted, images))
        return shown


class ChannelWise(nn.Module):
    """Join all places of each channel of maps, channels apart: the paper's channel-wise fully
    connected layer.

    Args:
        dim: Channels D of the maps.
        num_places: Rows times columns of the maps.
    """

    def __init__(self, dim: int, num_places: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(dim, num_places, num_places) * num_places**-0.5)
        self.bias = nn.Parameter(torch.zeros(dim, num_places))

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps (B, D, h, w) in which every place has seen every other."""
        flat = maps.flatten(2)  # (B, D, N)
        joined = torch.einsum("bdn,dnm->bdm", flat, self.weight) + self.bias
        return joined.view_as(maps)


def gradient_energy(images: Tensor, where: Tensor) -> Tensor:
    """Measure how sharp images are: the mean squared difference of neighbouring pixels.

    Args:
        images: (B, C, S, S).
        where: (B, 1, S, S) bool; only pairs of pixels that are both there count.

    Returns:
        (B,), 0 where all is flat or nothing counts.
    """
    total = images.new_zeros(len(images))
    count = torch.zeros_like(total)
    for axis in (2, 3):
        length = images.shape[axis] - 1
        both = where.narrow(axis, 0, length) & where.narrow(axis, 1, length)
        step = images.diff(dim=axis).square().mean(1, keepdim=True)
        total = total + (step * both).sum((1, 2, 3))
        count = count + both.sum((1, 2, 3))
    return total / count.clamp(min=1)
