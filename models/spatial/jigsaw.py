"""Jigsaw puzzles (Noroozi & Favaro 2016, arXiv:1603.09246).

Nine tiles of an image are laid out in one of 64 orders, each passes through the same encoder by
itself, and a network that sees the nine features must tell the order. Where relative position shows
two tiles, which may fit in more than one way, all nine together leave no doubt. The orders are
chosen to differ as much as they can (`distant_permutations`): of two that differ in two tiles
alone, one could only be told by these two.

It cannot collapse, but it cheats wherever a tile tells its place without what is in it: lines go on
over a border (hence a gap, and every tile is moved by some pixels), neighbours share brightness
and contrast (hence each tile is normalised by its own mean and deviation), and lenses shift colours
by the place (hence the channels are moved against each other, and a third of the images is grey).
One image in one order only would let it learn the tiles' places by heart; the order is drawn anew
every epoch.

What ships is the encoder of patches with its grid (`encoder.patch_size` is the side of a tile,
`encoder.patch_norm` normalises each as in training): an image is embedded by the mean over patches
of the size that it was trained on, of all three colours.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from augment.execution.tiles import TileChanges, cut_tiles, join_tiles
from augment.ops import Greyscale
from augment.recipe import CropGroup, Views
from augment.rng import uniform
from models.blocks.pretext import classification
from models.encoders.factory import EncoderConfig
from models.encoders.patch_grid import PatchGridEncoder
from models.method import Batch, Method, MethodConfig, ViewGroups
from models.spatial.permutations import distant_permutations
from models.spatial.relative_position import encode_tiles, tile_layout

_GROUP = "global_crops"
_NUM_TILES = 9
_GREY = 0.5


class JigsawConfig(MethodConfig):
    """Jigsaw's settings; the defaults are the paper's, of tiles of 64 px in cells of 75."""

    name: Literal["jigsaw"] = "jigsaw"
    tiles: TileChanges = Field(
        default=TileChanges(gap=11 / 64, jitter=5 / 64, channel_jitter=2, normalise=True),
        description="how tiles are cut apart and changed, so that none gives its place away",
    )
    num_permutations: int = Field(
        default=64, ge=2, le=10_000, description="orders that are told apart"
    )
    num_puzzles: int = Field(
        default=1, ge=1, description="orders asked for of an image's tiles, which are encoded once"
    )
    tile_dim: int = Field(default=1024, ge=1, description="features of a tile that are compared")
    hidden_dim: int = Field(
        default=4096, ge=1, description="features of the layer that compares all tiles"
    )


class Jigsaw(Method):
    """An encoder of tiles, a network that sees all nine, and cross entropy of their order.

    Raises:
        ValueError: the encoder does not encode patches, the tiles do not fit into the view, or they
            are normalised and the encoder's patches are not.
    """

    Config: ClassVar[type[MethodConfig]] = JigsawConfig
    small: ClassVar[MethodConfig] = JigsawConfig(
        tiles=TileChanges(gap=0.25, jitter=0.125, channel_jitter=1, normalise=True),
        num_permutations=8,
        tile_dim=32,
        hidden_dim=64,
    )
    small_px: ClassVar[int] = 32
    view_groups: ClassVar[ViewGroups] = {_GROUP: 1}
    accumulates: ClassVar[bool] = True
    encoder: PatchGridEncoder
    permutations: Tensor

    @staticmethod
    def default_views(size: int) -> Views:
        """Make one crop of most of the image, not stretched, three of ten grey (section 4.1)."""
        group = CropGroup(scale=(0.6, 1.0), ratio=(1.0, 1.0), flip=0.0, greyscale=Greyscale(p=0.3))
        return Views(size=size, groups={_GROUP: group})

    def __init__(
        self, config: JigsawConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.tiles = config.tiles
        self.num_puzzles = config.num_puzzles
        self.place = tile_layout(
            self.encoder, encoder_config, config.tiles, views.size, config.name
        )
        # in the state, as a class means nothing without its order
        self.register_buffer(
            "permutations", distant_permutations(_NUM_TILES, config.num_permutations)
        )
        self.of_tile = nn.Sequential(nn.Linear(self.encoder.embed_dim, config.tile_dim), nn.ReLU())
        self.of_all = nn.Sequential(
            nn.Linear(_NUM_TILES * config.tile_dim, config.hidden_dim),
            nn.ReLU(),
            nn.Linear(config.hidden_dim, config.num_permutations),
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Tell the order of each image's tiles.

        Returns:
            loss: Cross entropy, nats, mean over the puzzles and the global batch's valid samples;
                log(K) of K orders at chance.
            order_top1: Fraction of the orders that are told; 1 / K at chance.
            embedding: Mean over the tiles (B, D), detached; rows of invalid samples included.
        """
        features = encode_tiles(self.encoder, self._cut(batch, self.tiles))  # (B, 9, D)
        label = self._draw(batch)
        loss, top1 = classification(self._tell(features, label), label, batch["valid"])
        return {"loss": loss, "order_top1": top1, "embedding": features.detach().mean(dim=1)}

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, Tensor]:
        """Draw each image's first puzzle and, once something is learnt, how it is solved."""
        tiles = self._cut(batch, self.tiles.model_copy(update={"normalise": False}))
        label = self._draw(batch)[:, :1]
        seen = self.to_rgb(tiles.float())
        puzzle = _ordered(seen, self.permutations[label])[:, 0]
        shown = {"puzzle": join_tiles(puzzle, self.place, _GREY)}
        if self.progress > 0:
            features = encode_tiles(self.encoder, self._cut(batch, self.tiles))
            told = self.permutations[self._tell(features, label)[:, 0].argmax(-1)]  # (B, 9)
            solved = _ordered(puzzle, told.argsort(dim=-1).unsqueeze(1))[:, 0]
            shown["solved"] = join_tiles(solved, self.place, _GREY)
        return shown

    def _cut(self, batch: Batch, changes: TileChanges) -> Tensor:
        keys = {"seed": self.seed, "epoch": batch["epoch"], "sample_id": batch["sample_id"]}
        return cut_tiles(batch["views"][_GROUP][0], self.place, changes, **keys)

    def _draw(self, batch: Batch) -> Tensor:
        """Draw the orders of each sample's puzzles, (B, A) int64."""
        u = uniform(
            self.num_puzzles,
            seed=self.seed,
            epoch=batch["epoch"],
            sample_id=batch["sample_id"],
            view=0,
            op="jigsaw.order",
        )
        return (u * len(self.permutations)).long()

    def _tell(self, features: Tensor, label: Tensor) -> Tensor:
        """Score all orders of tiles (B, 9, D) that are laid out in the orders `label` (B, A).

        The tiles are put in order after they were encoded: each is encoded by itself, and its own
        changes are keyed by the place it was cut from.
        """
        laid_out = _ordered(self.of_tile(features), self.permutations[label])  # (B, A, 9, F)
        scores: Tensor = self.of_all(laid_out.flatten(2))
        return scores


def _ordered(tiles: Tensor, orders: Tensor) -> Tensor:
    """Lay tiles (B, 9, ...) out in orders (B, A, 9): (B, A, 9, ...)."""
    sample = torch.arange(len(tiles), device=tiles.device).view(-1, 1, 1)
    return tiles[sample, orders]
