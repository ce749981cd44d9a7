"""The decoder of maps: any encoder's maps become a picture, and it can learn one."""

import pytest
import torch
from torch.nn import functional

from models.blocks.map_decoder import MapDecoder, map_grid
from models.encoders.factory import EncoderConfig, build_encoder

ENCODERS = (
    EncoderConfig(name="resnet18_small", width=8),
    EncoderConfig(name="vit_tiny_small", width=8),
    EncoderConfig(name="amdim", width=8),  # a grid of 7 x 7, of which no doubling is 32
)


@pytest.mark.parametrize("config", ENCODERS, ids=lambda config: config.name)
def test_maps_of_every_encoder_become_an_image_of_any_channels(config: EncoderConfig) -> None:
    encoder = build_encoder(config, 32)
    grid = map_grid(encoder, 32)
    assert encoder.training
    decoder = MapDecoder(encoder.map_dim, 5, grid, 32, width=8)
    assert decoder(encoder.maps(torch.randn(2, 3, 32, 32))).shape == (2, 5, 32, 32)


def test_asking_for_the_grid_leaves_the_statistics_of_batch_norm() -> None:
    encoder = build_encoder(ENCODERS[0], 32)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    assert map_grid(encoder, 32) == (4, 4)
    assert all(torch.equal(before[key], value) for key, value in encoder.state_dict().items())


def test_stages_double_until_the_images_side_and_narrow_to_the_last_width() -> None:
    decoder = MapDecoder(48, 1, (7, 5), 32, width=4)
    assert decoder.sizes == [(7, 5), (14, 10), (28, 20), (32, 32)]
    assert [stage[0].out_channels for stage in decoder.stages] == [32, 16, 8, 4]


def test_a_picture_is_learnt_from_maps_that_tell_samples_apart() -> None:
    torch.manual_seed(0)
    decoder = MapDecoder(16, 3, (4, 4), 16, width=8)
    maps, images = torch.randn(4, 16, 4, 4), torch.randn(4, 3, 4, 4)
    images = functional.interpolate(images, scale_factor=4)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=1e-2)
    errors = []
    for _ in range(60):
        error = (decoder(maps) - images).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[0] > 0.7 and errors[-1] < 0.2
