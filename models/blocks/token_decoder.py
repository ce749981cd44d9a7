"""A light transformer from the tokens of some patches to a prediction for every patch."""

import torch
from torch import Tensor, nn

from models.blocks.positions import PlacePositions


class TokenDecoder(nn.Module):
    """Predicts something of each patch from the tokens of the visible ones (MAE, arXiv:2111.06377).

    A patch without a token is one learned mask token; the position added to it says which. Of
    clips, patches are those of every instant, one grid after the other, and the position says when
    as well.

    Args:
        in_dim: Features D of the encoder's tokens.
        out_dim: Features predicted of each patch.
        grid: Rows and columns of patches, N of them.
        dim: Features of the decoder's own tokens, a multiple of 4 and of `num_heads`.
        depth: Transformer blocks.
        num_heads: Attention heads of a block.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        grid: tuple[int, int],
        *,
        dim: int,
        depth: int,
        num_heads: int,
    ) -> None:
        from timm.models.vision_transformer import Block  # here, as timm takes seconds to import

        super().__init__()
        self.embed = nn.Linear(in_dim, dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim))
        self.positions = PlacePositions(grid, dim)
        self.blocks = nn.Sequential(*(Block(dim, num_heads, qkv_bias=True) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.predict = nn.Linear(dim, out_dim)
        nn.init.normal_(self.mask_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(
        self,
        visible: Tensor,
        keep: Tensor,
        *,
        times: int | None = None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """Predict patches from the tokens of visible ones.

        Args:
            visible: Their tokens (B, K, D).
            keep: Which patches these are, (B, K) int64.
            times: Instants of a clip; None: an image.
            wanted: Which patches to predict, (B, M) int64, none of `keep`: the decoder then sees no
                other hidden ones (VideoMAE v2, arXiv:2303.16727). None: all.

        Returns:
            (B, N, out_dim); of those wanted (B, M, out_dim).
        """
        visible = self.embed(visible)  # (B, K, dim)
        positions = self.positions(times)  # (N, dim)
        mask_token = self.mask_token.to(visible.dtype)
        if wanted is None:
            index = keep.unsqueeze(-1).expand_as(visible)
            blank = mask_token.expand(keep.shape[0], len(positions), -1)
            tokens = blank.scatter(1, index, visible) + positions  # (B, N, dim)
        else:
            hidden = mask_token.expand(*wanted.shape, -1)
            places = torch.cat([keep, wanted], dim=1)
            tokens = torch.cat([visible, hidden], dim=1) + positions[places]  # (B, K + M, dim)
        encoded = self.blocks(tokens)
        if wanted is not None:
            encoded = encoded[:, keep.shape[1] :]
        prediction: Tensor = self.predict(self.norm(encoded))
        return prediction
