"""Colorization (Zhang 2016, arXiv:1603.08511).

The encoder sees the lightness of an image alone and a decoder tells its colours: to know that this
is green one has to know that it is grass. Half of all objects may have several colours, and by
squared error (`output=l2`) the best answer to "red or green" is the grey between them. So colour is
told as a class (`output=bins`): the gamut of sRGB is cut into bins of 10 x 10 in a and b, each
place's colour is shared out to its five nearest bins, and a picture is made of the distribution's
annealed mean, which lies between its mean (grey) and its mode (patchy).

It does not collapse, but most of any photograph is nearly grey, and telling dull colours everywhere
is nearly right: hence rare bins weigh more, by the inverse of how often they were met in the run so
far (`uniform_share` 1 takes that away). All workers count together, and a batch counts from the
next step on. The paper counts over ImageNet beforehand.

The encoder is an ordinary one of three channels, all of which are the lightness. What ships is this
encoder, unchanged: shown an image in colour its first layer sees three channels that differ
slightly, in place of three equal ones, and training moved the weights of all three alike.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from augment.lab import lab_to_rgb, rgb_to_lab
from augment.ops import Fraction
from augment.presets import PLAIN_VIEW, plain_views
from augment.recipe import Views
from models.blocks.map_decoder import MapDecoder, map_grid
from models.collectives import all_reduce_sum, global_mean
from models.encoders.factory import EncoderConfig
from models.generative.colour_bins import ColourBins, bin_entropy
from models.method import Batch, Method, MethodConfig, ViewGroups

AB_SCALE = 110.0
"""Divides a and b, so that they lie about within -1 and 1."""


class ColorizationConfig(MethodConfig):
    """Colorization's settings; the defaults are the paper's."""

    name: Literal["colorization"] = "colorization"
    output: Literal["bins", "l2"] = Field(
        default="bins",
        description="tell each place's bin of colour, or its colour by squared error",
    )
    uniform_share: Fraction = Field(
        default=0.5,
        description=(
            "bins: share of the uniform distribution in the frequencies that rare colours are"
            " weighted by; 1: no weights"
        ),
    )
    temperature: float = Field(
        default=0.38, gt=0, le=1, description="bins: of the mean of which a picture is made"
    )
    target_stride: int = Field(
        default=4, ge=1, description="colours are told of squares of this side, px"
    )
    decoder_width: int = Field(
        default=64, ge=1, description="channels of the decoder's last stage; up to 8 times before"
    )

    def idle(self) -> dict[str, str]:
        """Return what squared error has no use for."""
        bins_alone = ("uniform_share", "temperature")
        return dict.fromkeys(bins_alone, "output") if self.output == "l2" else {}


class Colorization(Method):
    """Encoder of the lightness, decoder of the colour, cross entropy of bins or squared error.

    Raises:
        ValueError: the encoder gives no maps that hold all its embedding is made of.
    """

    Config: ClassVar[type[MethodConfig]] = ColorizationConfig
    small: ClassVar[MethodConfig] = ColorizationConfig(decoder_width=4)
    view_groups: ClassVar[ViewGroups] = {PLAIN_VIEW: 1}
    accumulates: ClassVar[bool] = True

    @staticmethod
    def default_views(size: int) -> Views:
        """Make a single crop and flip, colours untouched."""
        return plain_views(size, (0.4, 1.0))

    def __init__(
        self, config: ColorizationConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.encoder.require("trainable_maps", by=f"method.name={config.name}")
        self.settings = config
        self.bins = ColourBins()
        # the step's colours of all workers, for after_step
        self._seen: Tensor | None = None
        grid = map_grid(self.encoder, views.size)
        self.size = max(views.size // config.target_stride, *grid)
        channels = len(self.bins.points) if config.output == "bins" else 2
        self.decoder = MapDecoder(
            self.encoder.map_dim, channels, grid, self.size, width=config.decoder_width
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Tell the colours of each place of the images.

        Returns:
            loss: With bins cross entropy, nats, of a place's colour, weighted by its bin; log(309)
                where all bins are alike to it. By squared error that of a and b together, in units
                of 110. Mean over the places, then over the valid samples of all workers.
            chroma: Mean distance of the told colours from grey, in units of a and b.
            true_chroma: That of the true ones.
            embedding: Of the lightness (B, D), detached; rows of invalid samples included.
        """
        lab = rgb_to_lab(self.to_rgb(batch["views"][PLAIN_VIEW][0].float()))  # (B, 3, S, S)
        ab = functional.interpolate(lab[:, 1:], size=self.size, mode="area")
        grey = grey_images(lab, self.image_views).to(batch["views"][PLAIN_VIEW].dtype)
        maps = self.encoder.maps(grey)
        told = self.decoder(maps).float()  # (B, Q or 2, s, s)
        valid = batch["valid"]
        with torch.autocast(told.device.type, enabled=False):
            per_sample = self._loss(told, ab, valid)
            with torch.no_grad():
                chroma = self._colours(told).norm(dim=1).mean((1, 2))
        return {
            "loss": global_mean(per_sample, valid),
            "chroma": global_mean(chroma, valid),
            "true_chroma": global_mean(ab.norm(dim=1).mean((1, 2)), valid),
            "embedding": self.encoder.pool(maps).detach(),
        }

    @torch.no_grad()
    def after_step(self, step: int, num_steps: int) -> None:
        """Count the step's colours."""
        super().after_step(step, num_steps)
        if self._seen is not None:
            self.bins.met += self._seen
            self._seen = None

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, Tensor]:
        """Draw what the encoder sees and, once something is learnt, in the colours it tells."""
        lab = rgb_to_lab(self.to_rgb(batch["views"][PLAIN_VIEW][0].float()))
        shown = {"grey input": (lab[:, :1] / 100).expand_as(lab).clamp(0, 1)}
        if self.progress > 0:
            maps = self.encoder.maps(grey_images(lab, self.image_views))
            ab = self._colours(self.decoder(maps).float())
            shown["colourised"] = painted(lab[:, :1], ab)
        return shown

    def _loss(self, told: Tensor, ab: Tensor, valid: Tensor) -> Tensor:
        """Return each sample's loss (B,), and keep what the valid ones hold of each bin."""
        if self.settings.output == "l2":
            return (told - ab / AB_SCALE).square().sum(1).mean((1, 2))
        index, share = self.bins.encode(ab)
        weights = self.bins.class_weights(self.settings.uniform_share)
        self._seen = mean_amounts(self.bins.amounts(index, share), valid)
        return (bin_entropy(told, index, share) * weights[index[:, 0]]).mean((1, 2))

    def _colours(self, told: Tensor) -> Tensor:
        """Return a and b (B, 2, s, s) of what the decoder tells."""
        if self.settings.output == "l2":
            return told * AB_SCALE
        return self.bins.decode(told, self.settings.temperature)


def grey_images(lab: Tensor, views: Views) -> Tensor:
    """Make lightness images of three equal channels, normalised about as the views are.

    Args:
        lab: (B, 3, S, S).
        views: Whose mean and deviation count.
    """
    mean = sum(views.mean) / 3
    deviation = sum(views.std) / 3
    return ((lab[:, :1] / 100 - mean) / deviation).expand(-1, 3, -1, -1)


@torch.no_grad()
def mean_amounts(amounts: Tensor, valid: Tensor) -> Tensor:
    """Average what samples hold of each bin (B, Q) over the valid ones of all workers: (Q,), equal
    on all workers; 0 where none is valid."""
    mine = torch.cat([amounts.where(valid.unsqueeze(1), 0.0).sum(0), valid.sum(0, keepdim=True)])
    total = all_reduce_sum(mine)
    return total[:-1] / total[-1].clamp(min=1)


def painted(lightness: Tensor, ab: Tensor) -> Tensor:
    """Paint lightness (B, 1, S, S) in colours (B, 2, s, s) of fewer places: RGB (B, 3, S, S)."""
    fine = functional.interpolate(ab, size=lightness.shape[2:], mode="bilinear")
    return lab_to_rgb(torch.cat([lightness, fine], dim=1))
