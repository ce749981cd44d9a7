"""An encoder that sees an image as a grid of overlapping patches (arXiv:1807.03748, section
3.2)."""

from torch import Tensor

from augment.execution.tiles import normalise
from models.encoders.encoder import Encoder, Feature, Pooling


class PatchGridEncoder(Encoder):
    """Encodes every patch of a grid by itself; the embedding is the mean over the patches.

    So a whole image is embedded by what was trained, on what it was trained on: patches of one
    size, padded at their own borders. CPC evaluates its features pooled alike.

    Args:
        patch_encoder: From patches (B, 3, p, p) to (B, D).
        image_size: Side of the image, pixels.
        patch_size: Side p of a patch, pixels.
        stride: From one patch to the next, pixels; half of `patch_size` overlaps them by half.
        patch_norm: Give each channel of a patch mean 0 and deviation 1 before it is encoded.

    The grid is 7 x 7 where a patch has a quarter of the image's side and overlaps by half.

    Raises:
        ValueError: the patches do not cover the image to its border.
    """

    def __init__(
        self,
        patch_encoder: Encoder,
        image_size: int,
        patch_size: int,
        stride: int,
        *,
        patch_norm: bool = False,
    ) -> None:
        super().__init__()
        if image_size < patch_size or (image_size - patch_size) % stride:
            raise ValueError(
                f"patches of encoder.patch_size={patch_size} every {stride} px do not end at the"
                f" border of views.size={image_size}: let (views.size - patch_size) be a multiple"
                " of encoder.patch_stride"
            )
        self.patch_encoder = patch_encoder
        self.core = ".".join(filter(None, ("patch_encoder", patch_encoder.core)))
        self.patch_size = patch_size
        self.stride = stride
        self.patch_norm = patch_norm
        side = (image_size - patch_size) // stride + 1
        self.grid = (side, side)
        self.embed_dim = patch_encoder.embed_dim

    @property
    def poolings(self) -> tuple[Pooling, ...]:
        """Return those over the patches; each is embedded by its encoder's own pooling."""
        return ("auto", "mean", "max", "gem")

    def supports(self, feature: Feature) -> bool:
        """Tell whether the encoder gives this: patches, whose embeddings make the map."""
        return feature in ("maps", "trainable_maps", "patches")

    def cut(self, images: Tensor) -> Tensor:
        """Cut images (B, 3, H, W) into patches (B, h, w, 3, p, p), row by row."""
        patches = images.unfold(2, self.patch_size, self.stride).unfold(
            3, self.patch_size, self.stride
        )
        return patches.permute(0, 2, 3, 1, 4, 5)

    def encode(self, patches: Tensor) -> Tensor:
        """Encode patches (B, h, w, 3, p, p), all as one batch, as (B, h, w, D)."""
        flat = patches.flatten(0, 2)  # (B * h * w, 3, p, p)
        if self.patch_norm:
            flat = normalise(flat)
        features: Tensor = self.patch_encoder(flat).unflatten(0, patches.shape[:3])
        return features

    def maps(self, images: Tensor) -> Tensor:
        """Encode images (B, 3, H, W) as one embedding a patch (B, D, h, w)."""
        return self.encode(self.cut(images)).permute(0, 3, 1, 2)

    def forward(self, images: Tensor) -> Tensor:
        """Embed images (B, 3, H, W) as (B, D)."""
        return self.pool(self.maps(images))
