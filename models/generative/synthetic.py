"""Learning from rendered scenes (Ren & Lee 2018, arXiv:1711.09082).

Of a rendered scene everything is known: how far each pixel is, which way its surface looks, where
one thing ends and another begins. The encoder learns to tell all three from the picture at once,
which no image without labels would teach it. Rendered pictures do not look like photographs, so its
features must not tell them apart: a discriminator sees the feature maps of scenes and of the
corpus' images, and the encoder makes those of scenes look like those of images.

It cheats where it may tell the renderer from the world: then it reads depth from the renderer's
textures, and is of no use elsewhere. That is what the discriminator is there for
(`adversarial_weight` 0 shows it: `discriminator_top1` then rises to 1). A discriminator that is
followed too closely makes all maps alike.

The scenes are the project's own (`augment.scenes`), drawn by the sample and the epoch on the
device, so a run needs no second corpus; the corpus it is given is that of real images. As in the
paper the two sides take turns; here both take a step on the same batch, each against the other as
it was before.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from augment import rng
from augment.presets import PLAIN_VIEW, plain_views
from augment.recipe import Views
from augment.scenes.renderer import Rendered, render
from models.blocks.discriminator import (
    Discriminator,
    judged_by,
    taken_for_made,
    taken_for_real,
)
from models.blocks.map_decoder import MapDecoder, map_grid
from models.collectives import global_mean
from models.encoders.factory import EncoderConfig
from models.method import Batch, Method, MethodConfig, ViewGroups

_CHANNELS = (1, 1, 3)  # of contours, depth and normals
_LOG_DEPTH = (1.7, 0.6)  # mean and deviation of the logarithm over all scenes, about
_FAR = 14.0  # no surface is further away


class SyntheticConfig(MethodConfig):
    """The settings of learning from rendered scenes."""

    name: Literal["synthetic"] = "synthetic"
    contour_weight: float = Field(default=1.0, ge=0.0, description="weight of the contours' error")
    depth_weight: float = Field(default=1.0, ge=0.0, description="weight of the depth's error")
    normal_weight: float = Field(default=1.0, ge=0.0, description="weight of the normals' error")
    edge_weight: float = Field(
        default=10.0, gt=0.0, description="weight of a pixel on a contour; that of others is 1"
    )
    adversarial_weight: float = Field(
        default=0.1, ge=0.0, description="weight of maps of scenes being taken for those of images"
    )
    decoder_width: int = Field(
        default=32, ge=1, description="channels of the decoder's last stage; up to 8 times before"
    )
    discriminator_width: int = Field(
        default=64, ge=1, description="channels of the discriminator's first stage"
    )


class Synthetic(Method):
    """Encoder, decoder of what is true of a scene, and discriminator of scenes' and images' maps.

    Raises:
        ValueError: the encoder gives no maps that hold all its embedding is made of.
    """

    Config: ClassVar[type[MethodConfig]] = SyntheticConfig
    small: ClassVar[MethodConfig] = SyntheticConfig(decoder_width=4, discriminator_width=4)
    view_groups: ClassVar[ViewGroups] = {PLAIN_VIEW: 1}
    adversarial: ClassVar[bool] = True
    accumulates: ClassVar[bool] = True

    @staticmethod
    def default_views(size: int) -> Views:
        """Make a single crop and flip of the real images, colours untouched."""
        return plain_views(size, (0.4, 1.0))

    def __init__(
        self, config: SyntheticConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.encoder.require("trainable_maps", by="method.name=synthetic")
        self.settings = config
        grid = map_grid(self.encoder, views.size)
        dim = self.encoder.map_dim
        width = config.decoder_width
        self.decoder = MapDecoder(dim, sum(_CHANNELS), grid, views.size, width=width)
        self.discriminator = Discriminator(dim, grid[0], width=config.discriminator_width)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Tell what is true of scenes, and make their maps look like those of images.

        Returns:
            loss: The weighted sum of the contours' cross entropy, nats; the squared error of the
                depth's logarithm, about 1 where its mean is told; 1 - cosine of the normals; and
                the cross entropy of scenes' maps with "real". Mean over pixels and the valid
                samples of all workers, each of which has a scene.
            discriminator_loss: Cross entropy of images' and scenes' maps, nats, summed: 2 log 2
                where it guesses.
            discriminator_top1: Share of maps that it tells; 1 / 2 at chance.
            depth_error: The second term alone.
            normal_cosine: Mean cosine of told and true normals, 1 where all are right.
            embedding: Of the real images (B, D), detached; rows of invalid samples included.
        """
        images = batch["views"][PLAIN_VIEW][0]  # (B, 3, S, S)
        valid = batch["valid"]
        scenes = self._scenes(batch)
        both = torch.cat([self.from_rgb(scenes.images).to(images.dtype), images])
        of_scenes, of_images = self.encoder.maps(both).chunk(2)
        contour, depth, normal = self._errors(self.decoder(of_scenes).float(), scenes)
        fooled = taken_for_real(judged_by(self.discriminator, of_scenes))
        settings = self.settings
        loss = settings.contour_weight * contour + settings.depth_weight * depth
        loss = loss + settings.normal_weight * normal + settings.adversarial_weight * fooled
        real = self.discriminator(of_images.detach())
        made = self.discriminator(of_scenes.detach())
        told = ((real > 0).float() + (made < 0).float()) / 2
        return {
            "loss": global_mean(loss, valid),
            "discriminator_loss": global_mean(taken_for_real(real) + taken_for_made(made), valid),
            "discriminator_top1": global_mean(told, valid),
            "depth_error": global_mean(depth.detach(), valid),
            "normal_cosine": global_mean(1 - normal.detach(), valid),
            "embedding": self.encoder.pool(of_images).detach(),
        }

    def _scenes(self, batch: Batch) -> Rendered:
        """Render a scene for each sample, another one every epoch."""
        number = rng.state(
            seed=self.seed,
            epoch=batch["epoch"],
            sample_id=batch["sample_id"],
            view=0,
            op="scene number",
        )
        return render(seed=self.seed, scene=number, size=self.views.size)

    def _errors(self, told: Tensor, scenes: Rendered) -> tuple[Tensor, Tensor, Tensor]:
        """Return each scene's error of contours, depth and normals, (B,) each."""
        edge, depth, normal = told.split(_CHANNELS, dim=1)
        contours = scenes.contours.to(edge.dtype)
        weight = torch.where(scenes.contours, self.settings.edge_weight, 1.0)
        entropy = functional.binary_cross_entropy_with_logits(edge, contours, reduction="none")
        mean, deviation = _LOG_DEPTH
        apart = depth - (scenes.depth.to(depth.dtype).log() - mean) / deviation
        cosine = functional.cosine_similarity(normal, scenes.normals.to(normal.dtype), dim=1)
        return (
            (entropy * weight).mean((1, 2, 3)),
            apart.square().mean((1, 2, 3)),
            (1 - cosine).mean((1, 2)),
        )

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, Tensor]:
        """Draw each sample's scene and its truth and, once something is learnt, what is told of the
        real images."""
        scenes = self._scenes(batch)
        shown = {
            "scene": scenes.images,
            "its depth": (1 - scenes.depth / _FAR).clamp(0, 1).expand(-1, 3, -1, -1),
            "its normals": (scenes.normals / 2 + 0.5).clamp(0, 1),
            "its contours": scenes.contours.float().expand(-1, 3, -1, -1),
        }
        if self.progress > 0:
            maps = self.encoder.maps(batch["views"][PLAIN_VIEW][0])
            edge, depth, normal = self.decoder(maps).float().split(_CHANNELS, dim=1)
            mean, deviation = _LOG_DEPTH
            far = (depth * deviation + mean).exp()
            told = functional.normalize(normal, dim=1) / 2 + 0.5
            shown |= {
                "image's depth": (1 - far / _FAR).clamp(0, 1).expand(-1, 3, -1, -1),
                "image's normals": told.clamp(0, 1),
                "image's contours": edge.sigmoid().expand(-1, 3, -1, -1),
            }
        return shown
