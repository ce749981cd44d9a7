"""Autoencoder (Hinton & Salakhutdinov 2006; reviewed in arXiv:1206.5538).

An encoder puts an image into a short code, and a decoder paints it again. What is kept is what
squared error pays for: brightness, colour and where large shapes lie, before anything of what they
are. So it is the floor with which generative tasks are compared.

It cheats where the code is as rich as the image: without a bottleneck the maps are passed on, the
loss falls further, and nothing has to be understood for that.
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
from models.method import Batch, Method, MethodConfig, ViewGroups

_SMALLEST_GRID = 4
_PLACES_DIM = 8  # channels of the grid that a code is laid out on, in widths of the decoder


class AutoencoderConfig(MethodConfig):
    """The autoencoder's settings; small enough a code that an image is not copied."""

    name: Literal["autoencoder"] = "autoencoder"
    bottleneck_dim: int | None = Field(
        default=128,
        ge=1,
        description="numbers of an image's code; null: no bottleneck, the decoder reads the maps",
    )
    decoder_width: int = Field(
        default=64, ge=1, description="channels of the decoder's last stage; up to 8 times before"
    )


class Autoencoder(Method):
    """Encoder, code, decoder, and squared error of every pixel.

    Raises:
        ValueError: without a bottleneck, an encoder that gives no maps of all it is made of.
    """

    Config: ClassVar[type[MethodConfig]] = AutoencoderConfig
    small: ClassVar[MethodConfig] = AutoencoderConfig(bottleneck_dim=8, decoder_width=4)
    view_groups: ClassVar[ViewGroups] = {PLAIN_VIEW: 1}
    accumulates: ClassVar[bool] = True

    @staticmethod
    def default_views(size: int) -> Views:
        """Make a single crop and flip, colours untouched."""
        return plain_views(size, (0.4, 1.0))

    def __init__(
        self, config: AutoencoderConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        width = config.decoder_width
        self.code: nn.Linear | None = None
        if config.bottleneck_dim is None:
            self.encoder.require("trainable_maps", by="method.bottleneck_dim=null")
            grid = map_grid(self.encoder, views.size)
            self.decoder = MapDecoder(self.encoder.map_dim, 3, grid, views.size, width=width)
            return
        side = smallest_grid(views.size)
        places = (_PLACES_DIM * width, side, side)
        self.code = nn.Linear(self.encoder.embed_dim, config.bottleneck_dim)
        self.lay_out = nn.Sequential(
            nn.Linear(config.bottleneck_dim, _PLACES_DIM * width * side**2),
            nn.Unflatten(1, places),
        )
        self.decoder = MapDecoder(places[0], 3, (side, side), views.size, width=width)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Paint the images again.

        Returns:
            loss: Squared error of a pixel's channel in units of the normalised image, mean over the
                valid samples of all workers, scaled so that the average over workers is that mean.
                Painting the corpus' mean colour gives about 1.
            embedding: The encoder's output (B, D), detached; rows of invalid samples included.
        """
        images = batch["views"][PLAIN_VIEW][0]  # (B, 3, S, S)
        embedding, painted = self._paint(images)
        error = (painted - images.float()).square().mean((1, 2, 3))  # (B,)
        return {"loss": global_mean(error, batch["valid"]), "embedding": embedding.detach()}

    def _paint(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return embeddings (B, D) and painted images (B, 3, S, S) float32."""
        if self.code is None:
            maps = self.encoder.maps(images)
            return self.encoder.pool(maps), self.decoder(maps).float()
        embedding = self.encoder(images)
        return embedding, self.decoder(self.lay_out(self.code(embedding))).float()

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, Tensor]:
        """Draw what is painted of the images, once something is learnt."""
        if self.progress == 0:
            return {}
        _, painted = self._paint(batch["views"][PLAIN_VIEW][0])
        return {"painted": self.to_rgb(painted)}


def smallest_grid(size: int) -> int:
    """Return the side of the grid from which doubling reaches `size`: 4 for 32, 7 for 224."""
    side = size
    while side % 2 == 0 and side > _SMALLEST_GRID:
        side //= 2
    return side
