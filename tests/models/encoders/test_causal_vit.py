"""Causal vision transformers: what each patch sees, and who refuses them."""

import pytest
import torch
from torch import Tensor

from models.encoders.causal_vit import Order, in_order
from models.encoders.encoder import Encoder
from models.encoders.factory import EncoderConfig, build_encoder


def build(order: Order, name: str = "vit_tiny_small", size: int = 16) -> Encoder:
    width = {"width": 8} if name == "vit_tiny_small" else {}
    return build_encoder(EncoderConfig(name=name, causal=order, **width), size).eval()


@torch.no_grad()
def reached(encoder: Encoder, patch: int, size: int) -> Tensor:
    """Which places of the map change with one patch, (N,) bool."""
    images = torch.randn(1, 3, size, size)
    row, column = divmod(patch, size // encoder.patch_size)
    side = encoder.patch_size
    other = images.clone()
    other[..., row * side : (row + 1) * side, column * side : (column + 1) * side] += 1
    return (encoder.maps(images) != encoder.maps(other)).any(1).flatten()


@pytest.mark.parametrize("order", ["raster", "columns", "upwards", "outwards"])
def test_a_patch_reaches_itself_and_later_ones_alone_in_every_order(order: Order) -> None:
    encoder = build(order)
    sequence = encoder.sequence.tolist()
    assert sorted(sequence) == list(range(64))
    for rank in (0, 20, 63):
        found = reached(encoder, sequence[rank], 16)
        assert set(found.nonzero().flatten().tolist()) == set(sequence[rank:])


def test_orders_are_what_they_are_called() -> None:
    assert in_order("raster", (2, 3)).tolist() == [0, 1, 2, 3, 4, 5]
    assert in_order("columns", (2, 3)).tolist() == [0, 3, 1, 4, 2, 5]
    assert in_order("upwards", (2, 3)).tolist() == [3, 4, 5, 0, 1, 2]
    assert in_order("outwards", (3, 3)).tolist() == [4, 1, 3, 5, 7, 0, 2, 6, 8]


def test_class_tokens_see_no_patch_and_another_size_has_its_own_order() -> None:
    encoder = build("columns", "vit_tiny_patch16_224", 48)
    assert "class" not in encoder.poolings
    found = reached(encoder, 8, 48)  # the last of 3 x 3
    assert found.nonzero().flatten().tolist() == [8]
    found = reached(encoder, 1, 32)  # the third of 2 x 2, column by column
    assert found.nonzero().flatten().tolist() == [1, 3]


def test_its_weights_are_those_of_the_plain_network_and_its_embedding_another() -> None:
    images = torch.randn(2, 3, 16, 16)
    torch.manual_seed(0)
    plain = build_encoder(EncoderConfig(name="vit_tiny_small", width=8), 16).eval()
    torch.manual_seed(0)
    causal = build("raster")
    causal.load_state_dict(plain.state_dict())
    assert not torch.allclose(causal(images), plain(images), atol=1e-3)
    first = causal.layers(images, [1, causal.depth])
    torch.testing.assert_close(first[1], causal.maps(images))


def test_who_cannot_be_causal_or_wants_every_patch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"encoder\.causal=raster cannot be done by .*resnet18"):
        build_encoder(EncoderConfig(name="resnet18_small", causal="raster"), 16)
    with pytest.raises(ValueError, match="gives no patch tokens"):
        build("raster").require("tokens", by="method.name=mae")
    plain = build_encoder(EncoderConfig(name="vit_tiny_small", width=8), 16)
    with pytest.raises(ValueError, match=r"set encoder\.causal=raster"):
        plain.require("causal", by="method.name=autoregressive")
