"""Super-resolution as self-supervision (SRGAN; Ledig 2017, arXiv:1609.04802).

A picture is made small and enlarged again, which loses its detail, and a residual generator paints
the detail back: squared error of the pixels, being taken for real by a discriminator (weight 1e-3),
and, where a network of features is given (`content`), squared error in its features, in which what
looks alike is near. SRGAN takes features learnt from labels; here it is an artifact that was
pretrained without any. Without it the loss is of pixels and discriminator alone.

What ships is the front of the generator. SRGAN's generator is a trunk of residual blocks that keeps
every pixel of the small picture, and ends in 64 channels that no image is embedded by; here the
encoder reads the small picture, enlarged so that any encoder takes it, and residual blocks and
pixel shuffles go on from its maps. All that is painted passes through the encoder. Where the detail
alone was painted and added to the enlarged picture, the encoder grew worse than untrained (70 steps
on CIFAR-10: linear probe 0.268, untrained 0.308, and 0.361 with the whole painted). The price is
sharpness: an encoder that makes 4 x 4 places of 32 px paints less than the enlarged picture has.
(The discriminator could ship as well, but is told real from painted, and forgets what is in a
picture.) The encoder never sees a sharp picture while it learns, but does when it is used: that is
a price of the task.

It cheats where repainting edges is enough, at a `factor` of 2: nothing then has to be known of what
is in the picture. Squared error alone blurs; the discriminator alone invents.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from augment.presets import PLAIN_VIEW, plain_views
from augment.recipe import Views
from models import artifact
from models.blocks.discriminator import (
    Discriminator,
    judged_by,
    taken_for_made,
    taken_for_real,
)
from models.blocks.map_decoder import map_grid
from models.collectives import global_mean
from models.encoders.factory import EncoderConfig
from models.method import Batch, Method, MethodConfig, ViewGroups

_LEAST_ERROR = 1e-6  # of a PSNR: 60 dB


class SuperResolutionConfig(MethodConfig):
    """The settings of super-resolution; the defaults are SRGAN's."""

    name: Literal["super_resolution"] = "super_resolution"
    factor: int = Field(default=4, ge=2, le=8, description="how much smaller the picture is made")
    num_blocks: int = Field(
        default=4, ge=1, description="residual blocks after the encoder; SRGAN has 16, and no other"
    )
    generator_width: int = Field(default=64, ge=1, description="channels of the generator")
    pixel_weight: float = Field(
        default=1.0, ge=0.0, description="weight of the squared error of normalised pixels"
    )
    content: str | None = Field(
        default=None,
        min_length=1,
        description=(
            "artifact whose feature maps painted and true pictures are compared in; null: they are"
            " compared by pixels alone"
        ),
        examples=["URI"],
    )
    content_weight: float = Field(
        default=1.0, ge=0.0, description="weight of the squared error of content's features"
    )
    adversarial_weight: float = Field(
        default=1e-3, ge=0.0, description="weight of being taken for real"
    )
    discriminator_width: int = Field(
        default=64, ge=1, description="channels of the discriminator's first stage"
    )

    def idle(self) -> dict[str, str]:
        """Return what has no use without a network of features."""
        return {"content_weight": "content"} if self.content is None else {}


class SuperResolution(Method):
    """Encoder of the small picture, generator of the large one, discriminator, and features.

    Raises:
        ValueError: the encoder gives no maps that hold all its embedding is made of, or the
            content network gives no maps.
    """

    Config: ClassVar[type[MethodConfig]] = SuperResolutionConfig
    small: ClassVar[MethodConfig] = SuperResolutionConfig(
        num_blocks=1, generator_width=8, discriminator_width=4
    )
    view_groups: ClassVar[ViewGroups] = {PLAIN_VIEW: 1}
    adversarial: ClassVar[bool] = True
    accumulates: ClassVar[bool] = True

    @staticmethod
    def default_views(size: int) -> Views:
        """Make a single crop and flip, colours untouched."""
        return plain_views(size, (0.4, 1.0))

    def __init__(
        self, config: SuperResolutionConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.encoder.require("trainable_maps", by="method.name=super_resolution")
        if views.size % config.factor:
            raise ValueError(
                f"method.factor must divide views.size={views.size}, got {config.factor}"
            )
        self.settings = config
        self.generator = PictureGenerator(
            self.encoder.map_dim,
            map_grid(self.encoder, views.size),
            views.size,
            num_blocks=config.num_blocks,
            width=config.generator_width,
        )
        self.discriminator = Discriminator(3, views.size, width=config.discriminator_width)
        self.content = None if config.content is None else ContentNetwork(config.content)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Paint the large picture.

        Returns:
            loss: Squared error of the pixels, of the content network's features, and the cross
                entropy with "real", weighted; mean over the valid samples of all workers.
            discriminator_loss: Cross entropy of real and painted pictures, nats, summed: 2 log 2
                where it guesses.
            discriminator_top1: Share of pictures, real and painted, that it tells; 1 / 2 at chance.
            psnr_gain: How much nearer the true picture is than to the one enlarged by bicubic
                interpolation, dB; below 0 where the maps hold less than that one does.
            embedding: Of the enlarged pictures (B, D), detached; rows of invalid samples included.
        """
        images = batch["views"][PLAIN_VIEW][0].float()  # (B, 3, S, S)
        valid = batch["valid"]
        blurred = self.enlarged(self.made_small(images))
        maps = self.encoder.maps(blurred.to(batch["views"][PLAIN_VIEW].dtype))
        painted = self.generator(maps).float()
        settings = self.settings
        loss = settings.pixel_weight * (painted - images).square().mean((1, 2, 3))
        if self.content is not None:
            true = self.to_rgb(images)
            apart = self.content(self._rgb(painted), true)
            loss = loss + settings.content_weight * apart
        fooled = taken_for_real(judged_by(self.discriminator, painted))
        of_real = self.discriminator(images)
        of_made = self.discriminator(painted.detach())
        told = ((of_real > 0).float() + (of_made < 0).float()) / 2
        gain = self._psnr(painted.detach(), images) - self._psnr(blurred, images)
        return {
            "loss": global_mean(loss + settings.adversarial_weight * fooled, valid),
            "discriminator_loss": global_mean(
                taken_for_real(of_real) + taken_for_made(of_made), valid
            ),
            "discriminator_top1": global_mean(told, valid),
            "psnr_gain": global_mean(gain, valid),
            "embedding": self.encoder.pool(maps).detach(),
        }

    def made_small(self, images: Tensor) -> Tensor:
        """Make images (B, 3, S, S) small, by the antialiased bicubic kernel."""
        side = images.shape[-1] // self.settings.factor
        return functional.interpolate(images, size=(side, side), mode="bicubic", antialias=True)

    def enlarged(self, small: Tensor) -> Tensor:
        """Enlarge small images to the views' side, by the bicubic kernel."""
        size = (self.views.size, self.views.size)
        return functional.interpolate(small, size=size, mode="bicubic")

    def _rgb(self, images: Tensor) -> Tensor:
        """Undo the normalisation without cutting off what is too bright, for its gradient."""
        mean, std = (
            images.new_tensor(values).view(3, 1, 1)
            for values in (self.image_views.mean, self.image_views.std)
        )
        return images * std + mean

    def _psnr(self, images: Tensor, true: Tensor) -> Tensor:
        """Return the peak signal-to-noise ratio of each image, dB, (B,)."""
        error = (self.to_rgb(images) - self.to_rgb(true)).square().mean((1, 2, 3))
        return -10 * error.clamp(min=_LEAST_ERROR).log10()

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, Tensor]:
        """Draw the small pictures, enlarged, and once something is learnt what is painted of
        them."""
        blurred = self.enlarged(self.made_small(batch["views"][PLAIN_VIEW][0].float()))
        shown = {"enlarged": self.to_rgb(blurred)}
        if self.progress > 0:
            painted = self.generator(self.encoder.maps(blurred)).float()
            shown["painted"] = self.to_rgb(painted)
        return shown


class PictureGenerator(nn.Module):
    """Paint a large picture from the maps of a small one: SRGAN's residual blocks and pixel
    shuffles.

    Args:
        in_dim: Channels of the maps.
        grid: Rows and columns of the maps.
        size: Side of the picture, px.
        num_blocks: Residual blocks, at the maps' size.
        width: Channels.
    """

    def __init__(
        self, in_dim: int, grid: tuple[int, int], size: int, *, num_blocks: int, width: int
    ) -> None:
        super().__init__()
        self.size = size
        self.first = nn.Sequential(nn.Conv2d(in_dim, width, 3, padding=1), nn.PReLU())
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(num_blocks)))
        self.after = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        )
        stages: list[nn.Module] = []
        side = min(grid)
        while side < size:
            stages += [
                nn.Conv2d(width, 4 * width, 3, padding=1),
                nn.PixelShuffle(2),
                nn.PReLU(),
            ]
            side *= 2
        self.shuffles = nn.Sequential(*stages)
        self.last = nn.Conv2d(width, 3, 9, padding=4)
        nn.init.normal_(self.last.weight, std=0.01)  # its first picture is about flat
        nn.init.zeros_(self.last.get_parameter("bias"))

    def forward(self, maps: Tensor) -> Tensor:
        """Paint maps (B, D, h, w) as normalised pixels (B, 3, size, size)."""
        begun = self.first(maps)
        large = self.shuffles(begun + self.after(self.blocks(begun)))
        if large.shape[-2:] != (self.size, self.size):  # the maps were no 2^n-th of it
            large = functional.interpolate(large, size=(self.size, self.size), mode="nearest")
        painted: Tensor = self.last(large)
        return painted


class ResidualBlock(nn.Module):
    """Add two convolutions of maps to them, as SRGAN has it: no activation after the sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.PReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps (B, width, h, w) with what the branch adds."""
        added: Tensor = self.branch(maps)
        return maps + added


class ContentNetwork(nn.Module):
    """Compare pictures by the feature maps of an artifact, which stays as it is.

    Args:
        uri: The artifact.

    Raises:
        ValueError: its encoder gives no maps.
    """

    def __init__(self, uri: str) -> None:
        super().__init__()
        loaded = artifact.load(uri)
        self.encoder = loaded.encoder.requires_grad_(False)
        self.encoder.require("maps", by="method.content")
        self.prepared = loaded.of_images
        self.eval()

    def train(self, mode: bool = True) -> "ContentNetwork":
        """Stay as in evaluation: its batch norm keeps the statistics that it has learnt."""
        return super().train(False)

    def forward(self, painted: Tensor, true: Tensor) -> Tensor:
        """Return the squared distance of maps, as a share of the true ones' energy, (B,).

        Args:
            painted: RGB, (B, 3, S, S); it gets the gradient.
            true: RGB, (B, 3, S, S).
        """
        found = self._maps(painted)
        with torch.no_grad():
            wanted = self._maps(true)
        energy = wanted.square().mean((1, 2, 3)).clamp(min=torch.finfo(wanted.dtype).eps)
        return (found - wanted).square().mean((1, 2, 3)) / energy

    def _maps(self, rgb: Tensor) -> Tensor:
        side = self.prepared.image_size
        mean, std = (
            rgb.new_tensor(values).view(3, 1, 1)
            for values in (self.prepared.mean, self.prepared.std)
        )
        if rgb.shape[-1] != side:
            rgb = functional.interpolate(rgb, size=(side, side), mode="bilinear")
        return self.encoder.maps((rgb - mean) / std).float()
