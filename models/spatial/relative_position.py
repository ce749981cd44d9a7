"""Relative position (Doersch 2015, arXiv:1505.05192).

A grid of 3 x 3 tiles is cut from an image, and of the middle one and one of its eight neighbours
the encoder must tell which neighbour it is: above, to the left below, and so on. One has to know
the parts of a thing to know how they lie to each other. The paper asks for one pair of tiles at a
time; here all eight neighbours are asked for of each image, as the middle tile is then encoded once
for all of them, and the classes are balanced in every batch. Each pair is judged by itself.

It cannot collapse, but it cheats wherever a tile tells its place without what is in it. Lines and
ramps of brightness go on over a border: hence a gap of half a tile, and every tile is moved by some
pixels. Lenses shift red against green more the further a place is from the middle of the
photograph, which gives places away altogether: hence two of three colours are replaced by faint
noise in every tile. Tiles are told by how sharp they are: hence some are downsampled and upsampled.

What ships is the encoder of patches with its grid (`encoder.patch_size` is the side of a tile): an
image is embedded by the mean over patches of the size that it was trained on. A network trained on
tiles alone would see other statistics, and other borders, in a whole image. Most tiles it was
trained on lacked two colours; the patches of an image do not, and its first layer sees their sum.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from augment.execution.tiles import Layout, TileChanges, cut_tiles, join_tiles, layout
from augment.recipe import CropGroup, Views
from models.blocks.pretext import classification
from models.encoders.factory import EncoderConfig
from models.encoders.patch_grid import PatchGridEncoder
from models.method import Batch, Method, MethodConfig, ViewGroups

_GROUP = "global_crops"
_NUM_TILES = 9
_MIDDLE = 4
_GREY = 0.5
_RIGHT = (0.0, 0.7, 0.2)
_WRONG = (0.9, 0.1, 0.1)


class RelativePositionConfig(MethodConfig):
    """Relative position's settings; the defaults are the paper's."""

    name: Literal["relative_position"] = "relative_position"
    tiles: TileChanges = Field(
        default=TileChanges(gap=0.5, jitter=7 / 96, resample=0.3, channel_drop=1.0),
        description="how tiles are cut apart and changed, so that none gives its place away",
    )
    hidden_dim: int = Field(
        default=4096, ge=1, description="features of the layer that compares two tiles"
    )


class RelativePosition(Method):
    """An encoder of tiles, a network that compares two of them, and cross entropy of 8 places.

    Raises:
        ValueError: the encoder does not encode patches, the tiles do not fit into the view, or they
            are normalised and the encoder's patches are not.
    """

    Config: ClassVar[type[MethodConfig]] = RelativePositionConfig
    small: ClassVar[MethodConfig] = RelativePositionConfig(
        tiles=TileChanges(gap=0.25, jitter=0.125, resample=0.3, channel_drop=1.0), hidden_dim=64
    )
    small_px: ClassVar[int] = 32
    view_groups: ClassVar[ViewGroups] = {_GROUP: 1}
    accumulates: ClassVar[bool] = True
    encoder: PatchGridEncoder

    @staticmethod
    def default_views(size: int) -> Views:
        """Make one crop of a third of the image or more, neither stretched nor mirrored.

        The paper (section 3.1) scales images to 150,000 to 450,000 px, of which a grid covers
        158,000.
        """
        group = CropGroup(scale=(0.35, 1.0), ratio=(1.0, 1.0), flip=0.0)
        return Views(size=size, groups={_GROUP: group})

    def __init__(
        self, config: RelativePositionConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.tiles = config.tiles
        self.place = tile_layout(
            self.encoder, encoder_config, config.tiles, views.size, config.name
        )
        self.comparison = nn.Sequential(
            nn.Linear(2 * self.encoder.embed_dim, config.hidden_dim),
            nn.ReLU(),
            nn.Linear(config.hidden_dim, _NUM_TILES - 1),
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Tell the places of each image's eight outer tiles from the middle one.

        Returns:
            loss: Cross entropy, nats, mean over the neighbours and the global batch's valid
                samples; log(8) at chance.
            position_top1: Fraction of the neighbours that are told; 1 / 8 at chance.
            embedding: Mean over the tiles (B, D), detached; rows of invalid samples included.
        """
        features = encode_tiles(self.encoder, self._cut(batch))  # (B, 9, D)
        logits = self._compare(features)
        label = torch.arange(_NUM_TILES - 1, device=logits.device).expand(len(logits), -1)
        loss, top1 = classification(logits, label, batch["valid"])
        return {
            "loss": loss,
            "position_top1": top1,
            "embedding": features.detach().mean(dim=1),
        }

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, Tensor]:
        """Draw the tiles as the encoder sees them; those told rightly get a green frame, the others
        a red one, once something is learnt."""
        tiles = self._cut(batch).float()
        seen = self.to_rgb(tiles)
        shown = {"tiles": join_tiles(seen, self.place, _GREY)}
        if self.progress > 0:
            told = self._compare(encode_tiles(self.encoder, tiles)).argmax(-1)  # (B, 8)
            right = told == torch.arange(_NUM_TILES - 1, device=told.device)
            framed = _framed(_neighbours(seen), right)
            framed = torch.cat(
                [framed[:, :_MIDDLE], seen[:, _MIDDLE, None], framed[:, _MIDDLE:]], 1
            )
            shown["told is green"] = join_tiles(framed, self.place, _GREY)
        return shown

    def _cut(self, batch: Batch) -> Tensor:
        keys = {"seed": self.seed, "epoch": batch["epoch"], "sample_id": batch["sample_id"]}
        return cut_tiles(batch["views"][_GROUP][0], self.place, self.tiles, **keys)

    def _compare(self, features: Tensor) -> Tensor:
        """Score the 8 places of each outer tile's features (B, 9, D) beside the middle one's."""
        around = _neighbours(features)  # (B, 8, D)
        middle = features[:, _MIDDLE, None].expand_as(around)
        scores: Tensor = self.comparison(torch.cat([middle, around], dim=-1))
        return scores


def tile_layout(
    encoder: PatchGridEncoder,
    encoder_config: EncoderConfig,
    changes: TileChanges,
    size: int,
    method: str,
) -> Layout:
    """Lay out 3 x 3 tiles of the side that an encoder's patches have.

    Raises:
        ValueError: the encoder does not encode patches, the tiles do not fit into the view, or they
            are normalised and the encoder's patches, which an image is embedded by, are not.
    """
    encoder.require("patches", by=f"method.name={method}")
    if changes.normalise and not encoder_config.patch_norm:
        raise ValueError(
            "method.tiles.normalise=true needs encoder.patch_norm=true: the encoder that ships"
            " would else see patches unlike the tiles that it was trained on"
        )
    return layout(size, encoder.patch_size, changes)


def encode_tiles(encoder: PatchGridEncoder, tiles: Tensor) -> Tensor:
    """Encode tiles (B, 9, 3, p, p) by themselves, all as one batch: (B, 9, D)."""
    return encoder.encode(tiles.unflatten(1, (3, 3))).flatten(1, 2)


def _neighbours(tiles: Tensor) -> Tensor:
    """Leave the middle one of nine (B, 9, ...) out: (B, 8, ...)."""
    return torch.cat([tiles[:, :_MIDDLE], tiles[:, _MIDDLE + 1 :]], dim=1)


def _framed(tiles: Tensor, right: Tensor) -> Tensor:
    """Draw a frame of one px around tiles (B, N, 3, p, p) by whether `right` (B, N)."""
    colours = tiles.new_tensor([_WRONG, _RIGHT])[right.long()]  # (B, N, 3)
    inside = functional.pad(torch.ones_like(tiles[..., 1:-1, 1:-1], dtype=torch.bool), (1, 1, 1, 1))
    return tiles.where(inside, colours[..., None, None])
