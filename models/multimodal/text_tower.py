"""What an artifact of images and captions holds beside its encoder: an encoder of texts, and how
images and texts are compared."""

import math
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from augment.frozen import Frozen
from models.multimodal.text_encoder import TextEncoder, TextEncoderConfig
from models.texts import tokenizer as byte_pairs

_AT_ONCE = 256  # texts


class TextTowerConfig(Frozen):
    """Which text tower."""

    text: TextEncoderConfig = TextEncoderConfig()
    vocab_size: int = Field(ge=1, description="tokens at most")
    context_length: int = Field(ge=2, description="tokens of a text; what is longer is cut off")
    projection_dim: int = Field(ge=1, description="features in which images and texts are compared")
    temperature: float = Field(gt=0, description="that training begins with")
    bias: float | None = Field(
        None, description="added to similarities when training begins; null: there is none"
    )


class TextTower(nn.Module):
    """An encoder of texts, a projection of texts and one of images, and the temperature of their
    similarities.

    Args:
        config: What it is built of.
        image_dim: D, the length of the image encoder's embeddings.

    Attributes:
        tokenizer: As `models.texts.tokenizer.learn` returned it; None while training has it
            elsewhere.
        log_scale: Natural logarithm of what multiplies cosine similarities, a scalar.
        bias: Added to them after that, a scalar; None: nothing.
    """

    tokenizer: str | None = None
    bias: nn.Parameter | None

    def __init__(self, config: TextTowerConfig, image_dim: int) -> None:
        super().__init__()
        self.config = config
        self.text_encoder = TextEncoder(config.text, config.vocab_size, config.context_length)
        dim = config.projection_dim
        self.image_projection = nn.Linear(image_dim, dim, bias=False)
        self.text_projection = nn.Linear(self.text_encoder.embed_dim, dim, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)))
        self.bias = None if config.bias is None else nn.Parameter(torch.tensor(config.bias))

    def forward(self, tokens: Tensor) -> Tensor:
        """Project texts (B, L) of tokens as (B, projection_dim)."""
        projected: Tensor = self.text_projection(self.text_encoder(tokens.long()))
        return projected

    def of_images(self, embedding: Tensor) -> Tensor:
        """Bring embeddings of images (B, D) to where texts are: (B, projection_dim) float32 of
        length 1."""
        return functional.normalize(self.image_projection(embedding).float(), dim=1)

    @torch.no_grad()
    def of_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed texts as (N, projection_dim) float32 of length 1, on its own device.

        Raises:
            ValueError: there is no tokenizer, or its package is missing; with the remedy.
        """
        if self.tokenizer is None:
            raise ValueError("the text tower has no tokenizer: load it from an artifact")
        tokens = byte_pairs.encode(self.tokenizer, texts, self.config.context_length)
        known = torch.from_numpy(tokens).to(self.log_scale.device)
        parts = [self(part).float() for part in known.split(_AT_ONCE)]
        return functional.normalize(torch.cat(parts), dim=1)

    def logits(self, images: Tensor, texts: Tensor) -> Tensor:
        """Compare what `of_images` (N, P) and `of_texts` (M, P) gave as the objective does: (N,
        M)."""
        similarity = images @ texts.T * self.log_scale.exp()
        return similarity if self.bias is None else similarity + self.bias
