"""A memory of the last embeddings of all workers."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Queue(nn.Module):
    """The last `size` rows pushed; a new row overwrites the oldest. Part of the state dict.

    It takes size * dim * 4 bytes on every worker, and is equal on all of them as long as they push
    equal rows.

    Args:
        size: Rows held, K.
        dim: Features of a row, D.

    Attributes:
        rows: (K, D) float32; random unit vectors until overwritten, as in MoCo's code.
    """

    rows: Tensor
    num_pushed: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("rows", functional.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("num_pushed", torch.zeros((), dtype=torch.int64))

    @property
    def filled(self) -> Tensor:
        """Tell which rows have been pushed, (K,) bool."""
        return torch.arange(len(self.rows), device=self.rows.device) < self.num_pushed

    @torch.no_grad()
    def push(self, rows: Tensor, valid: Tensor) -> None:
        """Append rows in order, leaving out the invalid ones; nothing waits for the device.

        Args:
            rows: (N, D).
            valid: (N,) bool.

        Raises:
            ValueError: more rows than the queue holds.
        """
        if len(rows) > len(self.rows):
            raise ValueError(
                f"method.queue_size must be at least the global batch of {len(rows)} rows, got"
                f" {len(self.rows)}"
            )
        rows = rows[torch.argsort(~valid, stable=True)]  # valid ones first, in order
        place = torch.arange(len(rows), device=rows.device)
        slots = (self.num_pushed + place) % len(self.rows)
        keep = (place < valid.sum()).unsqueeze(1)
        self.rows[slots] = torch.where(keep, rows.to(self.rows.dtype), self.rows[slots])
        self.num_pushed += valid.sum()
