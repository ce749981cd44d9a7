"""Images as rows of patches, clips as rows of tubelets, and back."""

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


def slices(clips: Tensor, length: int) -> Tensor:
    """Make so many frames in a row of clips (B, T, C, H, W) the channels of one picture, (B * T /
    t, t * C, H, W)."""
    frames: Tensor = clips.flatten(0, 1).unflatten(0, (-1, length))
    return frames.flatten(1, 2)


def tubelets(clips: Tensor, patch_size: int, length: int) -> Tensor:
    """Cut clips into tubelets: squares of a few frames in a row, instant by instant.

    Args:
        clips: (B, T, C, H, W); H and W are multiples of `patch_size`, T of `length`.
        patch_size: Side p of a tubelet, pixels.
        length: Frames t of a tubelet.

    Returns:
        (B, N, t * C * p * p), N = T / t * H / p * W / p.

    Raises:
        ValueError: the tubelets do not end at the border.
    """
    rows: Tensor = patchify(slices(clips, length), patch_size).unflatten(0, (len(clips), -1))
    return rows.flatten(1, 2)


def clips_of(rows: Tensor, grid: tuple[int, int], patch_size: int, length: int) -> Tensor:
    """Put the tubelets of `tubelets` back together.

    Args:
        rows: (B, N, t * C * p * p).
        grid: Rows and columns of tubelets in a frame.
        patch_size: Side p of a tubelet, pixels.
        length: Frames t of a tubelet.

    Returns:
        (B, T, C, rows * p, columns * p).
    """
    thin = rows.unflatten(1, (-1, grid[0] * grid[1])).flatten(0, 1)
    frames = unpatchify(thin, grid, patch_size).unflatten(1, (length, -1))
    clips: Tensor = frames.flatten(0, 1).unflatten(0, (len(rows), -1))
    return clips


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
