"""Heads on an encoder."""

import pytest
import torch
from torch import nn

from models.blocks.heads import mlp


def test_heads_have_no_bias_before_batch_norm() -> None:
    layers = list(mlp((4, 6, 5, 3), norm=True, last_norm=False))
    biases = [layer.bias is not None for layer in layers if isinstance(layer, nn.Linear)]
    assert biases == [False, False, True] and isinstance(layers[-1], nn.Linear)
    assert mlp((4, 3), last_norm=True)(torch.randn(8, 4)).mean(0).abs().max() < 1e-5
    with pytest.raises(ValueError, match="dims"):
        mlp((4,))
