"""Positions of a grid of patches."""

import pytest
import torch

from models.blocks.positions import sincos_positions


def test_positions_hold_sines_and_cosines_of_row_and_column() -> None:
    positions = sincos_positions((3, 5), 8)
    assert positions.shape == (15, 8)
    row, column = 2.0, 3.0
    angles = torch.tensor([row, row / 100, column, column / 100])
    expected = torch.stack(
        [angles[:2].sin(), angles[:2].cos(), angles[2:].sin(), angles[2:].cos()]
    ).flatten()
    torch.testing.assert_close(positions[2 * 5 + 3], expected)
    with pytest.raises(ValueError, match="multiple of 4"):
        sincos_positions((2, 2), 6)
