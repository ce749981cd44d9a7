"""The autoencoder: what it is asked, and that its bottleneck is what keeps it from copying."""

import pytest
import torch

from models.encoders.factory import EncoderConfig
from models.generative.autoencoder import Autoencoder, AutoencoderConfig, smallest_grid
from models.registry import build_method
from tests.models.masked.photograph import make_batch, tiles

RESNET = EncoderConfig(width=8)
VIT = EncoderConfig(name="vit_tiny_small", width=8)


def build(encoder: EncoderConfig = RESNET, **settings: object) -> Autoencoder:
    config = AutoencoderConfig(**{"decoder_width": 8, "bottleneck_dim": 8, **settings})  # type: ignore[arg-type]
    method = build_method(config, encoder, Autoencoder.default_views(32), 0)
    assert isinstance(method, Autoencoder)
    return method


@pytest.mark.parametrize("encoder", [RESNET, VIT], ids=["resnet", "vit"])
@pytest.mark.parametrize("bottleneck_dim", [8, None])
def test_loss_is_the_mean_squared_error_of_all_pixels(
    encoder: EncoderConfig, bottleneck_dim: int | None
) -> None:
    method = build(encoder, bottleneck_dim=bottleneck_dim)
    batch = make_batch(tiles(4))
    images = batch["views"]["global_crops"][0]
    _, painted = method._paint(images)
    expected = torch.nn.functional.mse_loss(painted, images)
    torch.testing.assert_close(method(batch)["loss"], expected, rtol=1e-3, atol=1e-4)
    torch.nn.init.zeros_(method.decoder.predict.weight)
    torch.testing.assert_close(method(batch)["loss"], images.square().mean())


def test_an_image_is_told_by_its_code_alone() -> None:
    method = build().eval()
    assert method.code is not None and method.code.out_features == 8
    method.code.register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))
    _, painted = method._paint(tiles(3))
    assert torch.equal(painted[0], painted[1])


def test_the_grid_of_a_code_doubles_to_the_image() -> None:
    assert [smallest_grid(size) for size in (16, 32, 64, 96, 224)] == [4, 4, 4, 3, 7]


def train(method: Autoencoder, num_steps: int) -> float:
    batch = make_batch(tiles(16))
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    for _ in range(num_steps):
        loss = method(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


@pytest.mark.slow
def test_without_its_bottleneck_more_of_the_pixels_is_copied() -> None:
    assert train(build(bottleneck_dim=None), 40) < 0.8 * train(build(bottleneck_dim=2), 40)
