"""A predictor whose asked places look at the context and not at each other."""

import torch
from torch import Tensor, nn

from models.blocks.positions import sincos_positions

_MLP_RATIO = 4


class CrossPredictor(nn.Module):
    """Tells tokens at asked places from a context by cross-attention (CAPI, arXiv:2502.08769).

    Args:
        dim: Features D of the tokens, a multiple of 4 and of `num_heads`.
        grid: Rows and columns of patches, N of them.
        depth: Blocks.
        num_heads: Attention heads of a block.

    Raises:
        ValueError: `num_heads` does not divide `dim`.
    """

    positions: Tensor

    def __init__(self, dim: int, grid: tuple[int, int], *, depth: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(
                f"method.predictor_heads must divide the encoder's {dim} features, got {num_heads}"
            )
        self.mask_token = nn.Parameter(torch.empty(dim))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.register_buffer("positions", sincos_positions(grid, dim), persistent=False)
        self.blocks = nn.ModuleList(_CrossBlock(dim, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def forward(self, context: Tensor, asked: Tensor) -> Tensor:
        """Predict tokens (B, A, D) at places (B, A) int64 from a context (B, K, D)."""
        tokens = (self.mask_token + self.positions[asked]).to(context.dtype)
        for block in self.blocks:
            tokens = block(tokens, context)
        predicted: Tensor = self.norm(tokens)
        return predicted


class _CrossBlock(nn.Module):
    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm_asked = nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, _MLP_RATIO * dim), nn.GELU(), nn.Linear(_MLP_RATIO * dim, dim)
        )

    def forward(self, asked: Tensor, context: Tensor) -> Tensor:
        """Return the asked tokens (B, A, D) after a look at the context (B, K, D)."""
        told, _ = self.attention(self.norm_asked(asked), context, context, need_weights=False)
        asked = asked + told
        out: Tensor = asked + self.mlp(self.norm(asked))
        return out
