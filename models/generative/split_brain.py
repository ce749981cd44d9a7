"""Split-brain autoencoder (Zhang 2017, arXiv:1611.09842).

The encoder is two networks that share nothing. One sees the lightness of an image and tells its
colours, the other sees its colours and tells the lightness; what is learnt by the one has seen no
colour, and both together have seen all of the image, so that their joint embedding is of the whole,
unlike colorization's.

It does not collapse, and would only cheat if a half saw what it is to tell: the channels are taken
apart inside the encoder, before the first layer of either half (`encoder.split=lab`; `whole` takes
that away, and each half copies). As for colorization, both are told as classes (`output=bins`), of
the colours in the gamut of sRGB and of 50 levels of lightness; squared error (`output=l2`) goes
grey. Bins weigh alike here, as the paper gives no weights.

What ships is one encoder of both halves, for images in colour; see `SplitEncoder`. The paper's
other split, of colours and depth, needs paired images and is not here.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from augment.lab import rgb_to_lab
from augment.presets import PLAIN_VIEW, plain_views
from augment.recipe import Views
from models.blocks.map_decoder import MapDecoder, map_grid
from models.collectives import global_mean
from models.encoders.factory import EncoderConfig
from models.encoders.split import SplitEncoder
from models.generative.colorization import AB_SCALE, painted
from models.generative.colour_bins import ColourBins, bin_entropy
from models.method import Batch, Method, MethodConfig, ViewGroups

_LEVELS = 50  # of lightness, 2 apart
_LEVEL = 100 / _LEVELS


class SplitBrainConfig(MethodConfig):
    """Split-brain's settings; the defaults are for 224 px."""

    name: Literal["split_brain"] = "split_brain"
    output: Literal["bins", "l2"] = Field(
        default="bins", description="tell each place's bin of colour or lightness, or its value"
    )
    temperature: float = Field(
        default=0.38, gt=0, le=1, description="bins: of the mean of which a picture is made"
    )
    target_stride: int = Field(
        default=16, ge=1, description="colours are told of squares of this side, px"
    )
    decoder_width: int = Field(
        default=64, ge=1, description="channels of the decoders' last stage; up to 8 times before"
    )

    def idle(self) -> dict[str, str]:
        """Return what squared error has no use for."""
        return {"temperature": "output"} if self.output == "l2" else {}


class SplitBrain(Method):
    """An encoder of two halves, each of which predicts what the other one sees.

    Raises:
        ValueError: the encoder has no halves, or they give no maps that hold all their embedding is
            made of.
    """

    Config: ClassVar[type[MethodConfig]] = SplitBrainConfig
    small: ClassVar[MethodConfig] = SplitBrainConfig(target_stride=4, decoder_width=4)
    view_groups: ClassVar[ViewGroups] = {PLAIN_VIEW: 1}
    accumulates: ClassVar[bool] = True
    encoder: SplitEncoder

    @staticmethod
    def default_views(size: int) -> Views:
        """Make a single crop and flip, colours untouched."""
        return plain_views(size, (0.4, 1.0))

    def __init__(
        self, config: SplitBrainConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        for feature in ("halves", "trainable_maps"):
            self.encoder.require(feature, by=f"method.name={config.name}")
        self.settings = config
        self.bins = ColourBins()
        grid = map_grid(self.encoder, views.size)
        self.size = max(views.size // config.target_stride, *grid)
        dim = self.encoder.map_dim // 2
        num_colours, num_levels = 2, 1
        if config.output == "bins":
            num_colours, num_levels = len(self.bins.points), _LEVELS
        width = config.decoder_width
        self.to_colour = MapDecoder(dim, num_colours, grid, self.size, width=width)
        self.to_lightness = MapDecoder(dim, num_levels, grid, self.size, width=width)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Tell the colours by the lightness, and the lightness by the colours.

        Returns:
            loss: Mean of the two that follow.
            colour_loss: With bins cross entropy of a place's colour, nats, log(309) at chance; by
                squared error that of a and b together, in units of 110. Mean over the places, then
                over the valid samples of all workers.
            lightness_loss: The same of the lightness, log(50) at chance, in units of 50.
            embedding: Of both halves (B, D), detached; rows of invalid samples included.
        """
        images = batch["views"][PLAIN_VIEW][0]
        valid = batch["valid"]
        target = self._target(images)
        seen, hidden = self.encoder.halves(images)
        told = self.to_colour(seen).float(), self.to_lightness(hidden).float()
        with torch.autocast(images.device.type, enabled=False):
            colour = global_mean(self._colour_loss(told[0], target[:, 1:]), valid)
            lightness = global_mean(self._lightness_loss(told[1], target[:, :1]), valid)
        return {
            "loss": (colour + lightness) / 2,
            "colour_loss": colour.detach(),
            "lightness_loss": lightness.detach(),
            "embedding": self.encoder.pool(torch.cat([seen, hidden], dim=1)).detach(),
        }

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, Tensor]:
        """Draw, once something is learnt, the lightness in the colours that it tells, and the
        lightness that the colours tell."""
        if self.progress == 0:
            return {}
        images = batch["views"][PLAIN_VIEW][0].float()
        lab = rgb_to_lab(self.to_rgb(images))
        seen, hidden = self.encoder.halves(images)
        colour = self.to_colour(seen).float()
        lightness = self.to_lightness(hidden).float()
        if self.settings.output == "bins":
            colour = self.bins.decode(colour, self.settings.temperature)
            levels = torch.arange(_LEVELS, device=colour.device) * _LEVEL + _LEVEL / 2
            chance = (lightness / self.settings.temperature).softmax(1)
            lightness = torch.einsum("blhw,l->bhw", chance, levels).unsqueeze(1)
        else:
            colour = colour * AB_SCALE
            lightness = (lightness + 1) * 50
        fine = functional.interpolate(lightness, size=images.shape[2:], mode="bilinear")
        grey = (fine / 100).clamp(0, 1).expand_as(images)
        return {
            "told colours": painted(lab[:, :1], colour),
            "told lightness": grey,
        }

    def _target(self, images: Tensor) -> Tensor:
        """Return the Lab (B, 3, s, s) of normalised images, averaged over each place."""
        lab = rgb_to_lab(self.to_rgb(images.float()))
        return functional.interpolate(lab, size=self.size, mode="area")

    def _colour_loss(self, told: Tensor, ab: Tensor) -> Tensor:
        if self.settings.output == "l2":
            return (told - ab / AB_SCALE).square().sum(1).mean((1, 2))
        return bin_entropy(told, *self.bins.encode(ab)).mean((1, 2))

    def _lightness_loss(self, told: Tensor, lightness: Tensor) -> Tensor:
        if self.settings.output == "l2":
            return (told - (lightness / 50 - 1)).square().sum(1).mean((1, 2))
        level = (lightness[:, 0] / _LEVEL).long().clamp(0, _LEVELS - 1)
        return functional.cross_entropy(told, level, reduction="none").mean((1, 2))
