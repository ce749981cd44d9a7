"""What an encoder's layers give: the last one what the encoder itself gives, the others what
stands before it."""

import pytest
import torch
from torch import Tensor

from models.encoders.encoder import Encoder, Tokens
from models.encoders.factory import EncoderConfig, build_encoder


def build(name: str, size: int, **settings: object) -> Encoder:
    torch.manual_seed(0)
    return build_encoder(EncoderConfig.model_validate({"name": name} | settings), size).eval()


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "size", "depth"),
    [
        ("resnet18_small", 32, 4),
        ("vit_tiny_small", 32, 12),
        ("vit_tiny_patch16_224", 64, 12),
        ("resnet10t", 64, 5),
        ("convnext_atto", 64, 4),
        ("swin_tiny_patch4_window7_224", 224, 4),
        ("mobilenetv3_small_050", 64, 5),
        ("eva02_tiny_patch14_224", 56, 12),
        ("torchvision:resnet18", 64, 1),
        ("amdim", 32, 1),
    ],
)
def test_the_last_layer_is_what_the_encoder_gives(name: str, size: int, depth: int) -> None:
    encoder = build(name, size, **({"width": 8} if name.endswith("_small") else {}))
    assert encoder.depth == depth
    images = torch.randn(2, 3, size, size)
    (last,) = encoder.layers(images, [depth])
    *_, beside_others = encoder.layers(images, sorted({1, depth}))
    expected: Tensor | Tokens = (
        encoder.tokens(images) if encoder.supports("tokens") else encoder.maps(images)
    )
    for found in (last, beside_others):
        for one, other in zip(_tensors(found), _tensors(expected), strict=True):
            torch.testing.assert_close(one, other)
    if encoder.pools_its_layers:
        torch.testing.assert_close(encoder.pool(last), encoder(images))


def _tensors(features: Tensor | Tokens) -> list[Tensor]:
    if not isinstance(features, Tokens):
        return [features]
    return [each for each in features if each is not None]


@torch.no_grad()
def test_an_earlier_layer_ignores_what_comes_after_it() -> None:
    images = torch.randn(2, 3, 32, 32)
    vit = build("vit_tiny_small", 32, width=8)
    before = _tensors(vit.layers(images, [3, 5])[0])
    assert not torch.equal(before[-1], _tensors(vit.layers(images, [5])[0])[-1])
    vit.vit.blocks[3].apply(torch.nn.Module.float)  # the fourth block
    for parameter in vit.vit.blocks[3].parameters():
        parameter.zero_()
    assert torch.equal(before[-1], _tensors(vit.layers(images, [3])[0])[-1])
    resnet = build("resnet18_small", 32, width=8)
    first, third = resnet.layers(images, [1, 3])
    assert [tuple(maps.shape[1:]) for maps in (first, third)] == [(8, 32, 32), (32, 8, 8)]
