"""Vision transformers whose patches see only those before them in an order, as autoregressive
methods need."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from models.encoders.encoder import Feature, Pooling, Tokens
from models.encoders.vit import VisionTransformerEncoder

Order = Literal["raster", "columns", "upwards", "outwards"]


class CausalVisionTransformer(VisionTransformerEncoder):
    """A vision transformer under a causal mask: a patch attends to itself and to earlier ones.

    It gives maps and no tokens, as methods that hide patches from an encoder want one that sees all
    others. Class and register tokens, where the network has some, stand before all patches and see
    none of them. The mask is the encoder's own and ships with it: features that were learnt under
    it mean nothing without.

    Args:
        vit: The network, as for `VisionTransformerEncoder`.
        order: In which patches come: "raster", rows from the top; "columns", columns from the
            left; "upwards", rows from the bottom; "outwards", from the middle to the corners.

    Attributes:
        sequence: (N,) int64, the patches of an image of the size that it was built for, as places
            of the raster, in their order.
    """

    sequence: Tensor

    def __init__(self, vit: VisionTransformer, order: Order) -> None:
        super().__init__(vit)
        self.order: Order = order
        self.register_buffer("sequence", in_order(order, self.grid), persistent=False)

    @property
    def poolings(self) -> tuple[Pooling, ...]:
        """Return those over the patches: a class token sees none of them."""
        return ("auto", "mean", "max", "gem")

    def supports(self, feature: Feature) -> bool:
        """Tell whether the encoder gives this: maps in which no place has seen a later one."""
        return feature in ("maps", "trainable_maps", "causal")

    def forward(self, images: Tensor) -> Tensor:
        """Embed images (B, 3, H, W) as (B, D)."""
        return self.pool(self.maps(images))

    def maps(self, images: Tensor) -> Tensor:
        """Encode images as the grid of their patch tokens (B, D, h, w)."""
        (last,) = self.layers(images, [self.depth])
        assert isinstance(last, Tensor)
        return last

    def layers(self, images: Tensor, wanted: Sequence[int]) -> list[Tensor | Tokens]:
        """Encode images (B, 3, H, W) as the maps of some blocks, after the last norm."""
        rows, columns = (side // self.patch_size for side in images.shape[2:])
        found: Any = self.vit.forward_intermediates(
            images,
            indices=[layer - 1 for layer in wanted],
            norm=True,
            stop_early=True,
            output_fmt="NCHW",
            intermediates_only=True,
            attn_mask=self._mask((rows, columns)),
        )
        return list(found)

    def _mask(self, grid: tuple[int, int]) -> Tensor:
        """Return which token (row) may attend to which (column), (P + N, P + N) bool."""
        sequence = self.sequence
        if grid != tuple(self.grid):
            sequence = in_order(self.order, grid).to(sequence.device)
        num_prefix = self.vit.num_prefix_tokens
        rank = torch.zeros(num_prefix + len(sequence), dtype=torch.int64, device=sequence.device)
        rank[num_prefix + sequence] = torch.arange(1, len(sequence) + 1, device=sequence.device)
        return rank.unsqueeze(1) >= rank


def in_order(order: Order, grid: tuple[int, int]) -> Tensor:
    """List the patches of a grid in an order, as places of the raster, (N,) int64."""
    rows, columns = grid
    places = torch.arange(rows * columns).view(rows, columns)
    if order == "columns":
        places = places.T
    elif order == "upwards":
        places = places.flip(0)
    elif order == "outwards":
        row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        away = (2 * row - rows + 1).square() + (2 * column - columns + 1).square()
        return away.flatten().argsort(stable=True)
    return places.flatten()
