"""Vision transformers as encoders: one adapter around timm's VisionTransformer, whatever its
size."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from augment.rng import uniform
from models.blocks.positions import sincos_positions
from models.encoders.drop_path import DropPath
from models.encoders.encoder import Encoder, Feature, Hidden, Pooling, Tokens


class VisionTransformerEncoder(Encoder):
    """A timm VisionTransformer that can also encode a subset of its patches.

    Positions are the fixed 2-D sines and cosines of MAE and MoCo v3 (arXiv:2111.06377,
    arXiv:2104.02057), for every method: small corpora do not teach them, and an encoder is then the
    same network under every objective.

    By itself (`pooling` auto) it embeds by the mean of the patch tokens after the last layer norm,
    not by the class token: few objectives train a class token directly, so under MAE it carries
    whatever attention left in it, while the patch tokens are what the decoder reads. Where the
    network has a class token it takes part in attention and is dropped at the end.

    Images of another size than the encoder was built for, a multiple of the patch size, get
    interpolated positions.

    Args:
        vit: The network, without classifier, with its last layer norm before pooling
            (`fc_norm=False`).
    """

    core = "vit"

    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__()
        self.vit = vit
        vit.attn_pool = None  # type: ignore[assignment]  # unused parameters would stop data-parallel training
        self.embed_dim = vit.embed_dim
        self.patch_size = vit.patch_embed.patch_size[0]
        self.grid = vit.patch_embed.grid_size
        self._fix_positions()

    def _fix_positions(self) -> None:
        if self.vit.pos_embed is None:
            return
        # (1, P + N, D); prefix tokens have no place in the image
        positions = torch.zeros_like(self.vit.pos_embed)
        positions[0, -self.num_patches :] = sincos_positions(self.grid, self.embed_dim)
        self.vit.pos_embed = nn.Parameter(positions, requires_grad=False)

    @property
    def poolings(self) -> tuple[Pooling, ...]:
        """Return those over the patch tokens, and the class token where there is one."""
        over_patches: tuple[Pooling, ...] = ("auto", "mean", "max", "gem")
        return (*over_patches, "class") if self.vit.has_class_token else over_patches

    def supports(self, feature: Feature) -> bool:
        """Tell whether the encoder gives this: tokens and maps; the class token is in no map."""
        if feature == "trainable_maps":
            return self.pooling != "class"
        return feature in ("maps", "tokens", "places")

    def forward(self, images: Tensor) -> Tensor:
        """Embed images (B, 3, H, W) as (B, D); in training of `keep_tokens` of their patches."""
        drops = self.training and self.keep_tokens < 1
        return self.pool(self.tokens(images, self._kept(images) if drops else None))

    def num_tokens(self, images: Tensor) -> int:
        """Return N, the patches of images (B, 3, H, W)."""
        return math.prod(side // self.patch_size for side in images.shape[-2:])

    def _kept(self, images: Tensor) -> Tensor | None:
        """Draw which patches of images are encoded, (B, K) in raster order."""
        if self.token_key is None:
            return None
        seed, epoch, sample_id = self.token_key
        num_views = len(images) // len(epoch)
        num_patches = self.num_tokens(images)
        draws = uniform(
            num_patches,
            seed=seed,
            epoch=epoch.repeat(num_views),
            sample_id=sample_id.repeat(num_views),
            view=torch.arange(num_views, device=images.device).repeat_interleave(len(epoch)),
            op=f"keep_tokens of {num_patches}",
        )
        count = max(1, round(self.keep_tokens * num_patches))
        return draws.argsort(dim=1)[:, :count].sort(dim=1).values

    def maps(self, images: Tensor) -> Tensor:
        """Encode images as the grid of their patch tokens (B, D, h, w)."""
        grid = [side // self.patch_size for side in images.shape[2:]]
        maps: Tensor = self.tokens(images).patches.transpose(1, 2).unflatten(2, grid)
        return maps

    def tokens(
        self, images: Tensor, keep: Tensor | None = None, hidden: Hidden | None = None
    ) -> Tokens:
        """Encode images (B, 3, H, W), or only the patches at `keep` (B, K), as tokens; those of
        `hidden` unseen."""
        vit = self.vit
        num_prefix = vit.num_prefix_tokens
        if keep is None and hidden is None:
            encoded: Tensor = vit.forward_features(images)  # (B, P + N, D)
            return self._split(encoded[:, :num_prefix], encoded[:, num_prefix:])
        patches = vit.patch_embed(images)  # (B, h, w, D)
        if hidden is not None:
            covered = hidden.mask.view(*patches.shape[:3], 1)
            patches = torch.where(covered, hidden.token.to(patches.dtype), patches)
        # timm's own step, private as it is: it alone knows where the prefix tokens stand.
        tokens = vit._pos_embed(patches)  # (B, P + N, D)
        if keep is not None:
            index = keep.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])  # (B, K, D)
            visible = tokens[:, num_prefix:].gather(1, index)  # (B, K, D)
            tokens = torch.cat([tokens[:, :num_prefix], visible], dim=1)  # (B, P + K, D)
        encoded = vit.norm(vit.blocks(vit.norm_pre(tokens)))
        return self._split(encoded[:, :num_prefix], encoded[:, num_prefix:])

    @property
    def depth(self) -> int:
        """Return the number of blocks."""
        return len(self.vit.blocks)

    def layers(self, images: Tensor, wanted: Sequence[int]) -> list[Tensor | Tokens]:
        """Encode images (B, 3, H, W) as the tokens of some blocks, after the last norm."""
        found: Any = self.vit.forward_intermediates(
            images,
            indices=[layer - 1 for layer in wanted],
            return_prefix_tokens=True,
            norm=True,
            stop_early=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        if not self.vit.num_prefix_tokens:
            return [self._split(patches[:, :0], patches) for patches in found]
        return [self._split(prefix, patches) for patches, prefix in found]

    def _split(self, prefix: Tensor, patches: Tensor) -> Tokens:
        """Tell the class token from the other tokens (B, P, D) that stand before the patches."""
        num_class = int(self.vit.has_class_token)
        return Tokens(prefix[:, 0] if num_class else None, prefix[:, num_class:], patches)

    def freeze_patch_embedding(self) -> None:
        """Leave the patch embedding at its random values."""
        self.vit.patch_embed.requires_grad_(False)

    def draw_qkv_apart(self) -> None:
        """Give the random queries, keys and values the range that Xavier's rule (uniform) has for
        three layers (MoCo v3, arXiv:2104.02057): as one layer of three times the width they were
        drawn sqrt(2) times too small."""
        for block in self._blocks("qkv_init"):
            with torch.no_grad():
                block.attn.qkv.weight.mul_(2**0.5)

    def drop_paths(self, share: float) -> None:
        """Leave out branches in training: in the last block this share of the samples', in earlier
        ones in proportion fewer, in the first none."""
        blocks = self._blocks("drop_path")
        for index, block in enumerate(blocks):
            mine = share * index / max(len(blocks) - 1, 1)
            block.drop_path1 = DropPath(mine)
            block.drop_path2 = DropPath(mine)

    def _blocks(self, key: str) -> list[Any]:
        blocks: list[Any] = list(self.vit.blocks)
        if not all(isinstance(block, Block) for block in blocks):
            raise ValueError(
                f"encoder.{key} is not for encoder.name={self.name}, whose blocks are not those of"
                " a plain vision transformer: leave it out"
            )
        return blocks
