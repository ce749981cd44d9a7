"""Vision transformers over clips: patches that are a few frames deep, and attention through
time."""

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from models.blocks.patchify import slices
from models.blocks.positions import MOST_TIMES, sincos_line
from models.encoders.encoder import Feature, Hidden, Tokens
from models.encoders.vit import VisionTransformerEncoder


class TubeletEncoder(VisionTransformerEncoder):
    """A vision transformer whose patches are tubelets of a clip (ViViT, arXiv:2103.15691; VideoMAE,
    arXiv:2203.12602).

    A tubelet is the same square of `tubelet` frames in a row. Its position is that of the square in
    a frame and, added to it, that of its frames in the clip, both fixed waves, so that clips of any
    length fit. Attention is joint, over all tubelets of a clip.

    Args:
        vit: Built for 3 * tubelet channels, without class token or registers.
        tubelet: t, frames of a patch.
    """

    times: Tensor

    def __init__(self, vit: VisionTransformer, tubelet: int) -> None:
        super().__init__(vit)
        self.tubelet = tubelet
        line = sincos_line(MOST_TIMES, self.embed_dim)
        self.register_buffer("times", line.unsqueeze(1), persistent=False)  # (time, 1, D)

    def num_tokens(self, clips: Tensor) -> int:
        """Return N, the tubelets of clips (B, T, 3, H, W)."""
        return self.num_times(clips) * super().num_tokens(clips)

    def num_times(self, clips: Tensor) -> int:
        """Return the tubelets through time of clips (B, T, 3, H, W).

        Raises:
            ValueError: they do not divide into tubelets, or are too long.
        """
        num_frames = clips.shape[1]
        if num_frames % self.tubelet or num_frames // self.tubelet > MOST_TIMES:
            raise ValueError(
                f"clips of {num_frames} frames do not divide into 1 to {MOST_TIMES} tubelets of"
                f" {self.tubelet}: set clip.num_frames to a multiple of encoder.tubelet"
            )
        return num_frames // self.tubelet

    def maps(self, clips: Tensor) -> Tensor:
        """Encode clips as the grid of their tokens, averaged over time (B, D, h, w)."""
        grid = [side // self.patch_size for side in clips.shape[-2:]]
        tokens = self.tokens(clips).patches.unflatten(1, (self.num_times(clips), -1))
        maps: Tensor = tokens.mean(dim=1).transpose(1, 2).unflatten(2, grid)
        return maps

    def tokens(
        self, clips: Tensor, keep: Tensor | None = None, hidden: Hidden | None = None
    ) -> Tokens:
        """Encode clips (B, T, 3, H, W), or only the tubelets at `keep` (B, K), as tokens; those of
        `hidden` unseen.

        Tubelets are in raster order within those of earlier frames: N = T / t * h * w.
        """
        tokens = self._embedded(clips, hidden)  # (B, N, D)
        if keep is not None:
            tokens = tokens.gather(1, keep.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
        for block in self._blocks_of(clips):
            tokens = block(tokens)
        return self._finished(tokens)

    def layers(self, clips: Tensor, wanted: Sequence[int]) -> list[Tensor | Tokens]:
        """Encode clips as the tokens of some blocks, after the last norm."""
        tokens = self._embedded(clips, None)
        found: list[Tensor | Tokens] = []
        for number, block in enumerate(self._blocks_of(clips), start=1):
            tokens = block(tokens)
            if number in wanted:
                found.append(self._finished(tokens))
        return found

    def _finished(self, tokens: Tensor) -> Tokens:
        encoded: Tensor = self.vit.norm(tokens)
        return self._split(encoded[:, :0], encoded)

    def _blocks_of(self, clips: Tensor) -> Sequence[Any]:
        """Return the blocks as they take the tokens of such clips."""
        return list(self.vit.blocks)

    def _embedded(self, clips: Tensor, hidden: Hidden | None) -> Tensor:
        """Embed tubelets with their positions, (B, N, D)."""
        vit = self.vit
        times = self.num_times(clips)
        # as convolving over time with a stride of t would: frames of a tubelet become channels
        patches = vit.patch_embed(slices(clips, self.tubelet))  # (B * times, h, w, D)
        if hidden is not None:
            covered = hidden.mask.view(*patches.shape[:3], 1)
            patches = torch.where(covered, hidden.token.to(patches.dtype), patches)
        placed = vit._pos_embed(patches).unflatten(0, (-1, times))  # (B, times, h * w, D)
        timed = (placed + self.times[:times].to(placed.dtype)).flatten(1, 2)
        embedded: Tensor = vit.norm_pre(timed)
        return embedded


class DividedEncoder(TubeletEncoder):
    """The same with divided attention (TimeSformer, arXiv:2102.05095): each block attends through
    time at one place, then to the frame.

    Attention costs times + h * w for each token instead of times * h * w. Attention through time
    adds nothing at first, so a block starts as that of images.

    Args:
        vit: As of `TubeletEncoder`.
        tubelet: t, frames of a patch.
    """

    def __init__(self, vit: VisionTransformer, tubelet: int) -> None:
        super().__init__(vit, tubelet)
        heads = int(self._blocks("time")[0].attn.num_heads)
        self.through_time = nn.ModuleList(
            _ThroughTime(self.embed_dim, heads) for _ in range(self.depth)
        )

    def supports(self, feature: Feature) -> bool:
        """Tell whether the encoder gives this: no tokens, as none of a frame can be left out."""
        return feature in ("maps", "trainable_maps")

    def _blocks_of(self, clips: Tensor) -> Sequence[Any]:
        times = self.num_times(clips)
        pairs = zip(self.through_time, self.vit.blocks, strict=True)
        return [_Divided(through_time, block, times) for through_time, block in pairs]


class _ThroughTime(nn.Module):
    """Attention of each place to itself through time, added to what was there."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attn = Attention(dim, num_heads=num_heads, qkv_bias=True)
        nn.init.zeros_(self.attn.proj.weight)
        nn.init.zeros_(self.attn.proj.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Take and return tokens (B, times, P, D)."""
        lines = tokens.transpose(1, 2).flatten(0, 1)  # (B * P, times, D)
        attended = self.attn(self.norm(lines)).unflatten(0, (len(tokens), -1))
        summed: Tensor = tokens + attended.transpose(1, 2)
        return summed


class _Divided:
    """A block as it takes all tokens (B, N, D) of clips of so many tubelets through time."""

    def __init__(self, through_time: nn.Module, block: nn.Module, times: int) -> None:
        self._through_time = through_time
        self._block = block
        self._times = times

    def __call__(self, tokens: Tensor) -> Tensor:
        placed = self._through_time(tokens.unflatten(1, (self._times, -1)))
        encoded: Tensor = self._block(placed.flatten(0, 1)).unflatten(0, placed.shape[:2])
        return encoded.flatten(1, 2)
