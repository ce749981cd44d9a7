"""Texts as an encoder of texts embeds them."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from models.encoders.encoder import Encoder
from models.preprocess import TextPreprocess
from models.texts.tokenizer import encode

_AT_ONCE = 256  # texts


@torch.no_grad()
def embedded_texts(encoder: Encoder, prepared: TextPreprocess, texts: Sequence[str]) -> Tensor:
    """Embed texts as (N, D) float32 of length 1, on the encoder's device.

    Args:
        encoder: In evaluation mode.
        prepared: How it wants its texts.
        texts: N of them; of one of more tokens the beginning is read.

    Raises:
        ValueError: the package `tokenizers` is missing.
    """
    device = next(encoder.parameters()).device
    tokens = encode(prepared.tokenizer, texts, prepared.image_size)
    known = torch.from_numpy(tokens).long().to(device)
    parts = [encoder(part).float() for part in known.split(_AT_ONCE)]
    return functional.normalize(torch.cat(parts), dim=1)
