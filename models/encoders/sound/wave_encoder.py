"""Encoders of sounds: convolutions over samples, then a network that reads what they found.

The convolutions are those of CPC (van den Oord 2018, arXiv:1807.03748, section 3.1): five of
strides 5, 4, 2, 2, 2, so that a feature stands for 160 samples, 10 ms at 16 kHz. Its batch norm is
left out: by its statistics a moment would know of all others. Each moment is normalised over its
own channels instead (Riviere 2020, arXiv:2002.02848). What reads them is a GRU, which knows of
earlier moments alone, or a transformer with positions by convolution (wav2vec 2.0,
arXiv:2006.11477).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.encoders.encoder import Encoder, Feature, Hidden

_CONVOLUTIONS = ((10, 5, 3), (8, 4, 2), (4, 2, 1), (4, 2, 1), (4, 2, 1))  # kernel, stride, padding
_POSITION_KERNEL = 31
STRIDE = 160


class _MomentNorm(nn.LayerNorm):
    """Layer norm over the channels of each moment of (B, D, T)."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.transpose(1, 2)).transpose(1, 2)


class WaveEncoder(Encoder):
    """Convolutions, and a network over their moments; the embedding is the mean of its outputs.

    Args:
        dim: D, channels of every convolution and features of a moment.
        blocks: Of the transformer; 0: a GRU.
    """

    media = "audio"

    def __init__(self, dim: int, blocks: int) -> None:
        super().__init__()
        self.embed_dim = dim
        layers = list[nn.Module]()
        for index, (kernel, stride, padding) in enumerate(_CONVOLUTIONS):
            channels = dim if index else 1
            convolution = nn.Conv1d(channels, dim, kernel, stride, padding, bias=False)
            layers += [convolution, _MomentNorm(dim), nn.GELU()]
        self.convolutions = nn.Sequential(*layers)
        self.gru: nn.GRU | None = None
        self.transformer: nn.TransformerEncoder | None = None
        if blocks == 0:
            self.gru = nn.GRU(dim, dim, batch_first=True)
            return
        heads = _heads(dim)
        self.positions = nn.Conv1d(
            dim, dim, _POSITION_KERNEL, padding=_POSITION_KERNEL // 2, groups=heads
        )
        block = nn.TransformerEncoderLayer(
            dim, heads, 4 * dim, 0.0, functional.gelu, batch_first=True, norm_first=True
        )
        self.transformer = nn.TransformerEncoder(
            block, blocks, nn.LayerNorm(dim), enable_nested_tensor=False
        )

    def forward(self, images: Tensor) -> Tensor:
        """Embed windows of sound (B, L) as (B, D)."""
        return self.contextual(self.latents(images)).mean(dim=1)

    def latents(self, sounds: Tensor) -> Tensor:
        """Encode windows (B, L) moment by moment, (B, T, D)."""
        found: Tensor = self.convolutions(sounds.unsqueeze(1))  # (B, D, T)
        return found.transpose(1, 2)

    def contextual(self, latents: Tensor, hidden: Hidden | None = None) -> Tensor:
        """Read moments (B, T, D) beside each other, (B, T, D)."""
        if hidden is not None:
            token = hidden.token.to(latents.dtype)
            latents = torch.where(hidden.mask.unsqueeze(2), token, latents)
        if self.gru is not None:
            read: Tensor = self.gru(latents)[0]
            return read
        assert self.transformer is not None
        placed = functional.gelu(self.positions(latents.transpose(1, 2))).transpose(1, 2)
        context: Tensor = self.transformer(latents + placed)
        return context

    def num_moments(self, length: int) -> int:
        """Return T, the moments of a window of so many samples."""
        for kernel, stride, padding in _CONVOLUTIONS:
            length = (length + 2 * padding - kernel) // stride + 1
        return length

    def supports(self, feature: Feature) -> bool:
        """Tell whether the encoder gives this."""
        return feature == "latents" or (feature == "latents_in_order" and self.gru is not None)


def _heads(dim: int) -> int:
    """Return as many heads as give each some 64 features, or fewer."""
    return next(heads for heads in range(max(1, dim // 64), dim + 1) if dim % heads == 0)
