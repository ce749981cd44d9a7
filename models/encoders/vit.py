"""Vision transformers as encoders: one adapter around timm's VisionTransformer, whatever its size."""

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from models.blocks.positions import sincos_positions
from models.encoders.encoder import Encoder


class VisionTransformerEncoder(Encoder):
    """A timm VisionTransformer that can also encode a subset of its patches.

    Positions are the fixed 2-D sines and cosines of MAE and MoCo v3 (arXiv:2111.06377, arXiv:2104.02057), for every
    method: small corpora do not teach them, and an encoder is then the same network under every objective.

    The embedding is the mean of the patch tokens after the last layer norm, not the class token: no objective here
    trains a class token directly, so under MAE it carries whatever attention left in it, while the patch tokens are
    what the decoder reads. Where the network has a class token it takes part in attention and is dropped at the end.

    Images of another size than the encoder was built for, a multiple of the patch size, get interpolated positions.

    Args:
        vit: The network, without classifier, with its last layer norm before pooling (`fc_norm=False`).

    Attributes:
        patch_size: Side of a patch, pixels.
        num_patches: N, patches of an image.
    """

    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__()
        self.vit = vit
        vit.attn_pool = None  # type: ignore[assignment]  # unused parameters would stop data-parallel training
        self.embed_dim = vit.embed_dim
        self.patch_size: int = vit.patch_embed.patch_size[0]
        self.num_patches: int = vit.patch_embed.num_patches
        self._fix_positions()

    def _fix_positions(self) -> None:
        if self.vit.pos_embed is None:
            return
        positions = torch.zeros_like(
            self.vit.pos_embed
        )  # (1, P + N, D); prefix tokens have no place in the image
        positions[0, -self.num_patches :] = sincos_positions(
            self.vit.patch_embed.grid_size, self.embed_dim
        )
        self.vit.pos_embed = nn.Parameter(positions, requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        """Embed images (B, 3, S, S) as (B, D)."""
        return self.patch_tokens(images).mean(dim=1)

    def patch_tokens(self, images: Tensor) -> Tensor:
        """Encode images (B, 3, S, S) as layer-normalised patch tokens (B, N, D), in raster order."""
        tokens: Tensor = self.vit.forward_features(images)  # (B, P + N, D)
        return tokens[:, self.vit.num_prefix_tokens :]

    def visible_tokens(self, images: Tensor, keep: Tensor) -> Tensor:
        """Encode only the patches in `keep`; the others cost nothing beyond the patch embedding.

        Args:
            images: (B, 3, S, S) float, normalised.
            keep: (B, K) int64 indices of the visible patches in raster order.

        Returns:
            Layer-normalised tokens of the visible patches (B, K, D), in the order of `keep`.
        """
        vit, num_prefix = self.vit, self.vit.num_prefix_tokens
        # timm's own step, private as it is: it alone knows where class, register and distillation tokens stand.
        tokens = vit._pos_embed(vit.patch_embed(images))  # (B, P + N, D)
        index = keep.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])  # (B, K, D)
        visible = tokens[:, num_prefix:].gather(1, index)  # (B, K, D)
        tokens = torch.cat([tokens[:, :num_prefix], visible], dim=1)  # (B, P + K, D)
        encoded: Tensor = vit.norm(vit.blocks(vit.norm_pre(tokens)))
        return encoded[:, num_prefix:]  # (B, K, D)
