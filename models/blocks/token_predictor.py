"""A narrow transformer that tells tokens at some places from tokens at others."""

from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from augment.frozen import Frozen
from models.blocks.positions import PlacePositions


class PredictorSettings(Frozen):
    """Sizes of a predictor, as settings of a method."""

    predictor_dim: int = Field(
        default=384, ge=4, multiple_of=4, description="features of the predictor's tokens"
    )
    predictor_depth: int = Field(default=12, ge=1, description="blocks of the predictor")
    predictor_heads: int = Field(
        default=12, ge=1, description="attention heads of the predictor; divides predictor_dim"
    )

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.predictor_dim % self.predictor_heads:
            raise ValueError(
                "method.predictor_dim must be a multiple of"
                f" method.predictor_heads={self.predictor_heads}, got {self.predictor_dim}"
            )
        return self


class TokenPredictor(nn.Module):
    """Predicts the tokens at asked places from those of a context (I-JEPA, arXiv:2301.08243).

    One learned token for each asked place, told apart by its position alone, stands beside the
    context's; all attend to all. It is narrower than the encoder, so that the encoder does the
    work.

    Args:
        token_dim: Features D of the encoder's tokens, and of what is predicted.
        grid: Rows and columns of patches, N of them.
        dim: Features of its own tokens, a multiple of 4 and of `num_heads`.
        depth: Transformer blocks.
        num_heads: Attention heads of a block.
    """

    def __init__(
        self, token_dim: int, grid: tuple[int, int], *, dim: int, depth: int, num_heads: int
    ) -> None:
        from timm.models.vision_transformer import Block  # here, as timm takes seconds to import

        super().__init__()
        self.embed = nn.Linear(token_dim, dim)
        self.mask_token = nn.Parameter(torch.empty(dim))
        self.positions = PlacePositions(grid, dim)
        self.blocks = nn.Sequential(*(Block(dim, num_heads, qkv_bias=True) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.predict = nn.Linear(dim, token_dim)
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(
        self, context: Tensor, keep: Tensor, asked: Tensor, *, times: int | None = None
    ) -> Tensor:
        """Predict the tokens at some places.

        Args:
            context: Tokens of the encoder, (B, K, D).
            keep: Their places, (B, K) int64.
            asked: Places to predict, in groups that do not see each other, (B, M, T) int64.
            times: Instants of a clip, whose places are those of one grid after the other; None: an
                image.

        Returns:
            (B, M, T, D).
        """
        num_groups, num_asked = asked.shape[1:]
        positions = self.positions(times)
        known = self.embed(context) + positions[keep]  # (B, K, dim)
        known = known.unsqueeze(1).expand(-1, num_groups, -1, -1)
        blank = self.mask_token + positions[asked]  # (B, M, T, dim)
        tokens = torch.cat([known, blank.to(known.dtype)], dim=2).flatten(0, 1)  # (B * M, K + T, .)
        told = self.norm(self.blocks(tokens)[:, -num_asked:])
        predicted: Tensor = self.predict(told).unflatten(0, (-1, num_groups))
        return predicted
