"""A light transformer from the tokens of some patches to a prediction for every patch."""

import torch
from torch import Tensor, nn

from models.blocks.positions import sincos_positions


class TokenDecoder(nn.Module):
    """Predicts something of each patch from the tokens of the visible ones (MAE, arXiv:2111.06377).

    A patch without a token is one learned mask token; the position added to it says which.

    Args:
        in_dim: Features D of the encoder's tokens.
        out_dim: Features predicted of each patch.
        grid: Rows and columns of patches, N of them.
        dim: Features of the decoder's own tokens, a multiple of 4 and of `num_heads`.
        depth: Transformer blocks.
        num_heads: Attention heads of a block.
    """

    positions: Tensor

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
        positions = sincos_positions(grid, dim).unsqueeze(0)  # (1, N, dim)
        self.register_buffer("positions", positions, persistent=False)
        self.blocks = nn.Sequential(*(Block(dim, num_heads, qkv_bias=True) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.predict = nn.Linear(dim, out_dim)
        nn.init.normal_(self.mask_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, visible: Tensor, keep: Tensor) -> Tensor:
        """Predict all patches (B, N, out_dim) from tokens (B, K, D) of those at `keep` (B, K)."""
        visible = self.embed(visible)  # (B, K, dim)
        index = keep.unsqueeze(-1).expand_as(visible)
        blank = self.mask_token.to(visible.dtype).expand(keep.shape[0], self.positions.shape[1], -1)
        tokens = blank.scatter(1, index, visible) + self.positions  # (B, N, dim)
        prediction: Tensor = self.predict(self.norm(self.blocks(tokens)))
        return prediction
