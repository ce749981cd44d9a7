"""A small vision transformer for small images: ViT-Ti (Touvron 2020, arXiv:2012.12877) on an 8 x 8
grid of patches."""

from timm.models.vision_transformer import VisionTransformer

from models.encoders.vit import VisionTransformerEncoder

_GRID = 8
_NUM_HEADS = 3
_DEPTH = 12


def vit_tiny_small(image_size: int, width: int = 64, tubelet: int = 1) -> VisionTransformerEncoder:
    """Build ViT-Ti with patches an eighth of the image wide, so that 32 px images still make 64
    tokens.

    No class token: the embedding is the mean of the patch tokens.

    Args:
        image_size: Side of the image, pixels, a multiple of 8.
        width: Features of one of the three attention heads; the token width is 3 * width. 64 is
            ViT-Ti (192 features).
        tubelet: Frames of a patch, for clips.

    Raises:
        ValueError: the image does not divide into 8 x 8 patches.
    """
    if image_size % _GRID:
        raise ValueError(
            f"views.size must be a multiple of {_GRID} for encoder.name=vit_tiny_small, got"
            f" {image_size}"
        )
    vit = VisionTransformer(
        img_size=image_size,
        patch_size=image_size // _GRID,
        in_chans=3 * tubelet,
        num_classes=0,
        global_pool="avg",
        fc_norm=False,
        class_token=False,
        embed_dim=_NUM_HEADS * width,
        depth=_DEPTH,
        num_heads=_NUM_HEADS,
        weight_init="jax",
        dynamic_img_size=True,
    )
    return VisionTransformerEncoder(vit)
