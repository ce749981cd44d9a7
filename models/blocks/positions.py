"""Fixed position embeddings of a grid of patches, and of instants."""

import torch
from torch import Tensor, nn

MOST_TIMES = 256
"""Instants of the longest clip: positions are made for so many once."""


def sincos_positions(grid: tuple[int, int], dim: int) -> Tensor:
    """Make fixed position embeddings: half the features for the row, half for the column.

    Those of MAE (arXiv:2111.06377) and MoCo v3 (arXiv:2104.02057).

    Args:
        grid: Rows and columns of patches.
        dim: D, a multiple of 4.

    Returns:
        (rows * columns, D) float32, in raster order; wavelengths run from 2 pi to 10000 * 2 pi
        patches.

    Raises:
        ValueError: `dim` is no multiple of 4.
    """
    if dim % 4:
        raise ValueError(
            f"2-D sine-cosine positions need a width that is a multiple of 4, got {dim}"
        )
    frequency = 10_000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    rows, columns = (torch.arange(length, dtype=torch.float64) for length in grid)
    row, column = torch.meshgrid(rows, columns, indexing="ij")  # (rows, columns) each
    angles = [place.flatten().unsqueeze(1) * frequency for place in (row, column)]  # (N, D/4) each
    waves = [wave for angle in angles for wave in (angle.sin(), angle.cos())]
    return torch.cat(waves, dim=1).float()  # (N, D)


def sincos_line(length: int, dim: int) -> Tensor:
    """Make fixed position embeddings of instants (Vaswani 2017, arXiv:1706.03762).

    Args:
        length: Number of instants.
        dim: D, even.

    Returns:
        (length, D) float32; wavelengths run from 2 pi to 10000 * 2 pi instants.
    """
    frequency = 10_000.0 ** -(torch.arange(dim // 2, dtype=torch.float64) / (dim // 2))
    angle = torch.arange(length, dtype=torch.float64).unsqueeze(1) * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1).float()


class PlacePositions(nn.Module):
    """Fixed positions of a grid's places, of images, or at every instant of a clip.

    Args:
        grid: Rows and columns of patches, N of them.
        dim: D, a multiple of 4.
    """

    places: Tensor
    times: Tensor

    def __init__(self, grid: tuple[int, int], dim: int) -> None:
        super().__init__()
        self.register_buffer("places", sincos_positions(grid, dim), persistent=False)
        times = sincos_line(MOST_TIMES, dim).unsqueeze(1)  # (times, 1, D)
        self.register_buffer("times", times, persistent=False)

    def forward(self, times: int | None = None) -> Tensor:
        """Return (N, D); of so many instants, one grid after the other, (times * N, D)."""
        if times is None:
            return self.places
        return (self.places + self.times[:times]).flatten(0, 1)
