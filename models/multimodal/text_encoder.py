"""A transformer over tokens of texts (Radford 2021, arXiv:2103.00020, section 2.4)."""

import torch
from pydantic import Field
from torch import Tensor, nn

from augment.frozen import Frozen
from augment.texts.special_tokens import END


class TextEncoderConfig(Frozen):
    """Size of a text encoder; the defaults are those beside CLIP's ResNet-50 and ViT-B."""

    width: int = Field(512, ge=1, description="features of a token")
    depth: int = Field(12, ge=1, description="blocks")
    num_heads: int = Field(8, ge=1, description="heads of a block's attention; they divide width")


class TextEncoder(nn.Module):
    """Embeds texts: each token sees those before it, and the last one has seen them all.

    Args:
        config: Its size.
        vocab_size: How many tokens there are.
        length: L, tokens of a text at most.

    Raises:
        ValueError: the heads do not divide the width.
    """

    def __init__(self, config: TextEncoderConfig, vocab_size: int, length: int) -> None:
        super().__init__()
        if config.width % config.num_heads:
            raise ValueError(
                f"method.text.num_heads {config.num_heads} does not divide method.text.width"
                f" {config.width}"
            )
        self.embed_dim = config.width
        self.tokens = nn.Embedding(vocab_size, config.width)
        self.positions = nn.Parameter(torch.empty(length, config.width))
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.01)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                config.width,
                config.num_heads,
                4 * config.width,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed texts (B, L) as (B, width): what is made of each one's `END`."""
        features = self.tokens(tokens) + self.positions
        causal = nn.Transformer.generate_square_subsequent_mask(
            tokens.shape[1], device=features.device, dtype=features.dtype
        )
        for block in self.blocks:
            features = block(features, src_mask=causal, is_causal=True)
        end = (tokens == END).int().argmax(dim=1)
        row = torch.arange(len(tokens), device=tokens.device)
        last: Tensor = self.norm(features[row, end])
        return last
