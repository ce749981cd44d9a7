"""Layers of an encoder, from the pixels to the heads."""

import pytest

from models.encoders.depth import layers_of
from models.encoders.factory import EncoderConfig, build_encoder


@pytest.mark.parametrize(
    ("name", "size", "num_layers", "first", "last"),
    [
        ("resnet18_small", 32, 9, "stem.1.weight", "stages.3.1.conv2.weight"),
        ("vit_tiny_small", 32, 13, "vit.patch_embed.proj.weight", "vit.blocks.11.mlp.fc2.weight"),
        ("amdim", 32, None, "to_7.0.0.weight", None),
        ("resnet18", 64, 9, "network.conv1.weight", "network.layer4.1.conv2.weight"),
        ("torchvision:resnet18", 64, 9, "network.bn1.weight", "network.layer4.1.conv2.weight"),
    ],
)
def test_layers_are_numbered_from_the_pixels_on(
    name: str, size: int, num_layers: int | None, first: str, last: str | None
) -> None:
    encoder = build_encoder(EncoderConfig(name=name), size)
    layers = layers_of(encoder)
    assert layers.keys() == {key for key, _ in encoder.named_parameters()}
    assert layers[first] == 0
    assert sorted(set(layers.values())) == list(range(max(layers.values()) + 1))
    if num_layers is not None:
        assert max(layers.values()) + 1 >= num_layers
        assert layers[last or ""] >= num_layers - 1


def test_patches_encoded_one_by_one_have_the_layers_of_their_encoder() -> None:
    plain = layers_of(build_encoder(EncoderConfig(width=8), 32))
    grid = layers_of(build_encoder(EncoderConfig(width=8, patch_size=8), 32))
    assert grid == {f"patch_encoder.{name}": layer for name, layer in plain.items()}


def test_halves_of_an_encoder_lie_side_by_side() -> None:
    half = layers_of(build_encoder(EncoderConfig(width=8), 32))
    both = layers_of(build_encoder(EncoderConfig(width=16, split="lab"), 32))
    assert both == {
        f"{side}.{name}": layer for side in ("lightness", "colour") for name, layer in half.items()
    }


def test_an_encoder_without_layers_is_refused() -> None:
    encoder = build_encoder(EncoderConfig(width=8), 32)
    encoder.stages.requires_grad_(False)
    del encoder.stages
    with pytest.raises(ValueError, match="layer_decay has no layers to tell apart"):
        layers_of(encoder)
