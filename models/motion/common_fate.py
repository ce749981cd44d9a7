"""Common fate (Mahendran 2018, arXiv:1807.05636): pixels that move together belong together.

From a single frame the encoder must give each place an embedding, such that places are as alike to
each other as their optical flows are. What moves as one is mostly one thing, so the embeddings of a
still picture come to tell things apart. Each place's likeness to all others, by flow and by
embedding, is made a distribution, and the loss is the cross entropy of one with the other, but for
a constant, the entropy of flow.

It cannot collapse: embeddings that are all alike say nothing of flow. It cheats by place, as
neighbours mostly move together, and by the camera, whose motion says nothing of things: flow is
taken without its mean, and clips whose parts do not move apart are not asked about.
"""

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from augment.masking import MaskKey
from augment.presets import PLAIN_VIEW, plain_views
from augment.recipe import Views
from models.collectives import global_mean
from models.encoders.encoder import Encoder, Tokens
from models.encoders.factory import EncoderConfig
from models.method import Batch, Media, Method, MethodConfig, ViewGroups
from models.motion.flow_pictures import flow_arrows, flow_colours

_LAYERS = 4
_HIDDEN = 128  # channels between hypercolumns and embeddings


class CommonFateConfig(MethodConfig):
    """Settings of common fate."""

    name: Literal["common_fate"] = "common_fate"
    embed_dim: int = Field(default=16, ge=2, description="length of a place's embedding")
    grid: int = Field(
        default=32, ge=2, description="rows and columns of places, at most the view's side"
    )
    num_places: int = Field(
        default=512, ge=2, description="places of a view that are compared, drawn from the grid"
    )
    temperature: float = Field(
        default=0.1, gt=0, description="divides cosine similarities of embeddings"
    )
    flow_width: float = Field(
        default=0.5,
        gt=0,
        description="difference of two flows that are alike, in deviations of the view's flow",
    )
    min_motion: float = Field(
        default=0.25,
        ge=0,
        description="deviation of a view's flow below which nothing moves by itself, px a frame",
    )


class CommonFate(Method):
    """Encoder of a frame, embeddings of its places, and their likeness compared with that of flow.

    Raises:
        ValueError: the encoder does not see frames one by one, or gives no maps.
    """

    Config: ClassVar[type[MethodConfig]] = CommonFateConfig
    small: ClassVar[MethodConfig] = CommonFateConfig(embed_dim=8, grid=8, num_places=48)
    view_groups: ClassVar[ViewGroups] = {PLAIN_VIEW: 1}
    media: ClassVar[Media] = "clip"
    flow: ClassVar[bool] = True
    accumulates: ClassVar[bool] = True

    @staticmethod
    def default_views(size: int) -> Views:
        """Make a single crop and flip, colours untouched."""
        return plain_views(size, (0.4, 1.0))

    def __init__(
        self, config: CommonFateConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.encoder.require("frames", by="method.name=common_fate")
        self.encoder.require("trainable_maps", by="method.name=common_fate")
        self.settings = config
        self.side = min(config.grid, views.size)
        with torch.no_grad():
            self.encoder.eval()
            layers, _ = self._layers(torch.zeros(1, 3, views.size, views.size))
            self.encoder.train()
        self.head = nn.Sequential(
            nn.Conv2d(sum(layer.shape[1] for layer in layers), _HIDDEN, kernel_size=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(_HIDDEN, config.embed_dim, kernel_size=1),
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Compare which places are alike.

        Returns:
            loss: Cross entropy of each place's likeness by embedding with that by flow, less the
                entropy of flow itself, nats: 0 where both agree; mean over the places of a view and
                the global batch's valid samples whose parts move apart.
            even: The same where all embeddings are alike.
            moving: Fraction of this worker's samples whose parts move apart.
            embedding: Of the first frame (B, D), detached; rows of invalid samples included.
        """
        clips = batch["views"][PLAIN_VIEW][0]  # (B, T, 3, S, S)
        flow, apart = self._flow(batch)
        places = self._places(batch)
        wanted, entropy = self._likeness_of_flow(_taken(flow, places))
        layers, embedding = self._layers(clips[:, 0])
        embeddings = functional.normalize(_taken(self._embed(layers), places).float(), dim=1)
        alike = embeddings.transpose(1, 2) @ embeddings / self.settings.temperature  # (B, P, P)
        crossed = -(wanted * alike.log_softmax(dim=2)).sum(dim=2).mean(dim=1)  # (B,)
        asked = batch["valid"] & (apart >= self.settings.min_motion)
        return {
            "loss": global_mean(crossed - entropy, asked),
            "even": global_mean(math.log(places.shape[1]) - entropy, asked),
            "moving": (apart >= self.settings.min_motion).float().mean(),
            "embedding": embedding,
        }

    def pixel_embeddings(self, frames: Tensor) -> Tensor:
        """Embed the places of frames (B, 3, S, S), (B, E, side, side)."""
        return self._embed(self._layers(frames)[0])

    def _flow(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the flow of the first frame's places without its mean, in its deviations,
        (B, 2, side, side), and these deviations, px, (B,)."""
        flow = batch["targets"]["flow"][:, 0, 0].float()  # (B, 2, S, S)
        flow = functional.adaptive_avg_pool2d(flow, self.side)
        flow = flow - flow.mean(dim=(2, 3), keepdim=True)
        apart = flow.square().sum(dim=1).mean(dim=(1, 2)).sqrt()
        smallest = torch.finfo(flow.dtype).eps
        return flow / apart.clamp(min=smallest).view(-1, 1, 1, 1), apart

    def _places(self, batch: Batch) -> Tensor:
        """Draw the places that are compared, (B, P) int64."""
        key = MaskKey(self.seed, batch["epoch"], batch["sample_id"])
        drawn = key.uniform(self.side**2, "places").argsort(dim=1)
        return drawn[:, : self.settings.num_places]

    def _likeness_of_flow(self, flow: Tensor) -> tuple[Tensor, Tensor]:
        """Return how alike the flow (B, 2, P) of places is, (B, P, P) whose rows sum to 1, and the
        mean entropy of a row, nats, (B,)."""
        each = flow.transpose(1, 2)
        apart = (each.unsqueeze(2) - each.unsqueeze(1)).square().sum(dim=3)
        logs = (-apart / (2 * self.settings.flow_width**2)).log_softmax(dim=2)
        return logs.exp(), -(logs.exp() * logs).sum(dim=2).mean(dim=1)

    def _layers(self, frames: Tensor) -> tuple[list[Tensor], Tensor]:
        """Encode frames (B, 3, S, S) as maps of layers a quarter of the depth apart, and as
        embeddings (B, D), detached."""
        depth = self.encoder.depth
        wanted = sorted({max(1, depth * quarter // _LAYERS) for quarter in range(1, _LAYERS + 1)})
        layers = self.encoder.layers(frames.unsqueeze(1), wanted)
        embedding = self.encoder.pool(layers[-1]).detach()
        return [_as_maps(layer, self.encoder) for layer in layers], embedding

    def _embed(self, layers: list[Tensor]) -> Tensor:
        """Join all layers at each place (hypercolumns, arXiv:1411.5752) and embed it."""
        columns = [
            functional.interpolate(
                functional.normalize(layer, dim=1), (self.side, self.side), mode="bilinear"
            )
            for layer in layers
        ]
        embedded: Tensor = self.head(torch.cat(columns, dim=1))
        return embedded

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, Tensor]:
        """Draw the flow in colours and as arrows, and how alike each place is to the one that moves
        most."""
        frames = batch["views"][PLAIN_VIEW][0][:, 0]
        flow = batch["targets"]["flow"][:, 0, 0].float()
        grid, _ = self._flow(batch)
        most = grid.square().sum(dim=1).flatten(1).argmax(dim=1)
        embeddings = functional.normalize(self.pixel_embeddings(frames).float(), dim=1).flatten(2)
        chosen = embeddings[torch.arange(len(most), device=most.device), :, most]
        alike = torch.einsum("bd,bdn->bn", chosen, embeddings).clamp(0, 1)
        squares = alike.view(-1, 1, self.side, self.side).expand(-1, 3, -1, -1)
        size = frames.shape[-1]
        return {
            "flow": flow_colours(flow),
            "arrows": flow_arrows(self.to_rgb(frames), flow),
            "moves together": functional.interpolate(squares, (size, size), mode="nearest"),
        }


def _taken(maps: Tensor, places: Tensor) -> Tensor:
    """Take places (B, P) out of maps (B, C, h, w), (B, C, P)."""
    flat = maps.flatten(2)
    return flat.gather(2, places.unsqueeze(1).expand(-1, flat.shape[1], -1))


def _as_maps(layer: Tensor | Tokens, encoder: Encoder) -> Tensor:
    if not isinstance(layer, Tokens):
        return layer
    maps: Tensor = layer.patches.transpose(1, 2).unflatten(2, encoder.grid)
    return maps
