"""Patches that a convolutional network may see, as if there were no others.

A transformer leaves tokens out; a convolution needs its neighbours. Where some patches are hidden
it sees zeros in their place, and whatever it spreads into them is emptied after every layer, so
that their outline stays (SparK, arXiv:2301.03580). Batch norms measure visible patches alone: the
zeros would move their statistics. It is computed densely, at the cost of whole images.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Visible:
    """The visible patches of a batch of images.

    Attributes:
        keep: Their places in raster order, (B, K) int64; one may stand there twice.
        grid: Rows and columns of patches.
    """

    keep: Tensor
    grid: tuple[int, int]

    @cached_property
    def _shown(self) -> tuple[Tensor, Tensor]:
        """Return for every patch whether it is visible (B, N), and where in `keep` it stands."""
        places = torch.arange(self.grid[0] * self.grid[1], device=self.keep.device)
        found = self.keep[:, None] == places[:, None]  # (B, N, K)
        return found.any(2), found.int().argmax(2)

    def take(self, x: Tensor) -> Tensor:
        """Cut the visible patches out of (B, C, H, W): (B, K, C, H / rows, W / columns).

        H and W are multiples of the grid's rows and columns.
        """
        rows, columns = self.grid
        cut = x.unflatten(3, (columns, -1)).unflatten(2, (rows, -1))  # (B, C, rows, h, columns, w)
        patches = cut.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)  # (B, N, C, h, w)
        index = self.keep[:, :, None, None, None].expand(-1, -1, *patches.shape[2:])
        taken: Tensor = patches.gather(1, index)
        return taken

    def put(self, patches: Tensor) -> Tensor:
        """Undo `take`, with zeros where no patch is visible."""
        shown, places = self._shown
        index = places[:, :, None, None, None].expand(-1, -1, *patches.shape[2:])
        whole = patches.gather(1, index) * shown[:, :, None, None, None]  # (B, N, C, h, w)
        cut: Tensor = whole.unflatten(1, self.grid).permute(0, 3, 1, 4, 2, 5)
        return cut.flatten(4, 5).flatten(2, 3)

    def hide(self, x: Tensor) -> Tensor:
        """Return (B, C, H, W) with zeros where no patch is visible."""
        return self.put(self.take(x))

    def norm(self, norm: nn.Module, x: Tensor) -> Tensor:
        """Normalise the visible patches of (B, C, H, W) by their own statistics, and empty the
        others."""
        patches = self.take(x)
        normalised: Tensor = norm(patches.flatten(0, 1))
        return self.put(normalised.unflatten(0, patches.shape[:2]))
