"""Images as rows of patches, and back."""

from torch import Tensor

_GREY = 0.5


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Cut images into square patches in raster order.

    Args:
        images: (B, C, H, W), any number of channels; H and W are multiples of `patch_size`.
        patch_size: Side p of a patch, pixels.

    Returns:
        (B, N, C * p * p), a patch's values channel by channel; N = H / p * W / p.

    Raises:
        ValueError: the patches do not end at the border.
    """
    num_images, channels, height, width = images.shape
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"images of {height} x {width} px do not divide into patches of {patch_size} px"
        )
    rows = height // patch_size
    columns = width // patch_size
    patches = images.reshape(num_images, channels, rows, patch_size, columns, patch_size)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(num_images, rows * columns, -1)


def unpatchify(patches: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """Put the patches of `patchify` back together.

    Args:
        patches: (B, N, C * p * p).
        grid: Rows and columns of patches, N of them.
        patch_size: Side p of a patch, pixels.

    Returns:
        (B, C, rows * p, columns * p).
    """
    rows, columns = grid
    pixels = patches.reshape(len(patches), rows, columns, -1, patch_size, patch_size)
    return pixels.permute(0, 3, 1, 4, 2, 5).reshape(
        len(patches), -1, rows * patch_size, columns * patch_size
    )


def cover(images: Tensor, mask: Tensor, patch_size: int) -> Tensor:
    """Paint the hidden patches of images grey.

    Args:
        images: RGB in [0, 1], (B, 3, H, W).
        mask: (B, N) bool, true where hidden.
        patch_size: Side p of a patch, pixels.
    """
    grid = (images.shape[2] // patch_size, images.shape[3] // patch_size)
    pixels = mask.view(-1, 1, *grid).repeat_interleave(patch_size, 2)
    return images.masked_fill(pixels.repeat_interleave(patch_size, 3), _GREY)
