"""Pooling is a setting: what it computes, who can do it, and that it ships with the weights."""

from pathlib import Path
from typing import Any

import pytest
import torch

from augment.recipe import IMAGENET_MEAN, IMAGENET_STD
from models import artifact
from models.encoders.encoder import Encoder, Pooling
from models.encoders.factory import EncoderConfig, build_encoder


def build(name: str, size: int, pooling: Pooling = "auto", **settings: Any) -> Encoder:
    torch.manual_seed(0)
    config = EncoderConfig(name=name, pooling=pooling, **settings)
    return build_encoder(config, size).eval()


@torch.no_grad()
def test_each_pooling_of_a_map_is_what_its_name_says() -> None:
    images = torch.randn(2, 3, 32, 32)
    places = build("resnet18_small", 32, width=8).maps(images).flatten(2)  # (B, D, N)
    expected = {
        "auto": places.mean(2),
        "mean": places.mean(2),
        "max": places.max(2).values,
        "gem": places.clamp(min=1e-6).pow(3).mean(2).pow(1 / 3),
    }
    for pooling, embedding in expected.items():
        found = build("resnet18_small", 32, pooling, width=8)(images)  # type: ignore[arg-type]
        torch.testing.assert_close(found, embedding, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_each_pooling_of_tokens_is_what_its_name_says() -> None:
    images = torch.randn(2, 3, 64, 64)
    tokens = build("vit_tiny_patch16_224", 64).tokens(images)
    expected = {
        "auto": tokens.patches.mean(1),
        "mean": tokens.patches.mean(1),
        "max": tokens.patches.max(1).values,
        "gem": tokens.patches.clamp(min=1e-6).pow(3).mean(1).pow(1 / 3),
        "class": tokens.cls,
    }
    for pooling, embedding in expected.items():
        encoder = build("vit_tiny_patch16_224", 64, pooling)  # type: ignore[arg-type]
        torch.testing.assert_close(encoder(images), embedding)
        other = build("vit_tiny_patch16_224", 64).pool(tokens, pooling)  # type: ignore[arg-type]
        torch.testing.assert_close(other, embedding)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "embed_dim", "frozen"),
    [
        ("mobilenetv3_small_050", 288, {"network.conv_head.weight", "network.conv_head.bias"}),
        ("resnet10t", 512, set()),
        ("torchvision:alexnet", 256, set()),
        ("eva02_tiny_patch14_224", 192, {"network.fc_norm.weight", "network.fc_norm.bias"}),
    ],
)
def test_a_pooling_of_its_own_makes_any_library_network_embed_by_its_maps(
    name: str, embed_dim: int, frozen: set[str]
) -> None:
    size = 56 if name.startswith("eva") else 64
    encoder = build(name, size, "max")
    assert encoder.embed_dim == embed_dim and encoder.supports("trainable_maps")
    images = torch.randn(2, 3, size, size)
    torch.testing.assert_close(encoder(images), encoder.maps(images).amax(dim=(2, 3)))
    found = {key for key, p in encoder.named_parameters() if not p.requires_grad}
    assert found == frozen


@pytest.mark.parametrize("training", [True, False])
def test_gradient_of_any_pooling_reaches_all_that_is_trainable(training: bool) -> None:
    for name, pooling in (
        ("vit_tiny_patch16_224", "class"),
        ("vit_tiny_patch16_224", "gem"),
        ("convnext_atto", "mean"),
        ("resnet10t", "gem"),
    ):
        encoder = build(name, 64, pooling).train(training)  # type: ignore[arg-type]
        encoder(torch.randn(2, 3, 64, 64)).square().sum().backward()
        lacking = [
            key for key, p in encoder.named_parameters() if p.requires_grad and p.grad is None
        ]
        assert not lacking


@pytest.mark.parametrize(
    ("name", "pooling", "choices"),
    [
        ("resnet18_small", "class", "has no class token: choose one of auto, mean, max, gem"),
        ("vit_tiny_small", "class", "has no class token: choose one of auto, mean, max, gem"),
        ("amdim", "mean", "choose one of auto$"),
        ("torchvision:densenet121", "max", "choose one of auto$"),
    ],
)
def test_a_pooling_that_an_encoder_cannot_do_is_refused(
    name: str, pooling: Pooling, choices: str
) -> None:
    message = rf"encoder\.pooling={pooling} cannot be done by encoder\.name={name}.*{choices}"
    with pytest.raises(ValueError, match=message):
        build(name, 32, pooling)
    with pytest.raises(ValueError, match=message):
        build(name, 32).pool(torch.zeros(1, 8, 2, 2), pooling)


PREPROCESS: dict[str, Any] = {"image_size": 64, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}


@torch.no_grad()
def test_the_pooling_ships_with_the_weights(tmp_path: Path) -> None:
    config = EncoderConfig(name="vit_tiny_patch16_224", pooling="class")
    encoder = build(config.name, 64, "class")
    whole = {"encoder": config.model_dump(mode="json"), "seed": 0}
    artifact.save(str(tmp_path), encoder, config=whole, preprocess=PREPROCESS, provenance={})
    images = torch.randn(2, 3, 64, 64)
    loaded = artifact.load(str(tmp_path))
    assert torch.equal(loaded(images), encoder.tokens(images).cls)  # type: ignore[arg-type]
    assert artifact.untrained(str(tmp_path)).encoder.pooling == "class"


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet18_small", "vit_tiny_small"])
def test_an_artifact_that_knows_nothing_of_pooling_embeds_as_it_did(
    tmp_path: Path, name: str
) -> None:
    encoder = build(name, 64, width=8)
    written = {  # as before pooling was a setting
        "encoder": {
            "name": name,
            "width": 8,
            "norm": "batch",
            "patch_size": None,
            "patch_stride": None,
        },
        "seed": 0,
    }
    digest = artifact.save(
        str(tmp_path), encoder, config=written, preprocess=PREPROCESS, provenance={}
    )
    loaded = artifact.load(str(tmp_path))
    assert (loaded.digest, loaded.config) == (digest, written)
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(loaded(images), encoder.maps(images).mean(dim=(2, 3)))
