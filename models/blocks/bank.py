"""A memory with a place for every sample of the corpus, found by its manifest row."""

from typing import Any

import torch
from torch import Tensor, nn

MAX_ROWS = 1 << 24  # a keyed uniform number has 24 bits, so that many rows can be drawn from


class Bank(nn.Module):
    """One vector a manifest row, empty until written; grows with the manifest. Part of the state
    dict.

    It takes num_rows * (itemsize * dim + 1) bytes on every worker, and is equal on all of them as
    long as they write equal rows.

    Args:
        dim: Features of a row, D.
        dtype: Of the features: float32, float16 or int32.

    Attributes:
        rows: (num_rows, D).
        filled: (num_rows,) bool, true where a row has been written.
    """

    rows: Tensor
    filled: Tensor

    def __init__(self, dim: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(0, dim, dtype=dtype))
        self.register_buffer("filled", torch.zeros(0, dtype=torch.bool))

    def grow(self, new: Tensor) -> None:
        """Append rows that have not been written, (N, D), with what they hold until then."""
        self.rows = torch.cat([self.rows, new.to(self.rows)])
        self.filled = torch.cat([self.filled, self.filled.new_zeros(len(new))])

    @torch.no_grad()
    def put(self, row: Tensor, values: Tensor, valid: Tensor) -> None:
        """Write rows, leaving out the invalid ones; of one that is there twice, the last. Nothing
        waits for the device.

        Args:
            row: (N,) int64, which rows.
            values: (N, D).
            valid: (N,) bool.
        """
        place = torch.arange(len(row), device=row.device, dtype=torch.int32)
        same = (row.unsqueeze(1) == row) & valid  # (N, N)
        # so that those written twice are written alike, in whatever order
        last = torch.where(same, place, -1).amax(1)
        keep = last >= 0
        written = values[last.clamp(min=0)].to(self.rows)
        self.rows[row] = torch.where(keep.unsqueeze(1), written, self.rows[row])
        self.filled[row] = self.filled[row] | keep

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Take as many rows as were saved: the manifest may have grown since, or not be known
        yet."""
        saved = state_dict.get(f"{prefix}rows")
        if saved is not None and len(saved) != len(self.rows):
            self.rows = self.rows.new_zeros(len(saved), self.rows.shape[1])
            self.filled = self.filled.new_zeros(len(saved))
        super()._load_from_state_dict(state_dict, prefix, *args)


def check_room(num_rows: int, max_rows: int) -> None:
    """Refuse more rows than a bank may have.

    Raises:
        ValueError: there are more.
    """
    if num_rows > max_rows:
        raise ValueError(
            f"its {num_rows} rows are more than method.max_rows={max_rows} (at most {MAX_ROWS}): "
            "raise it where every worker's memory allows, or take a method without a bank"
        )
