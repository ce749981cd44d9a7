"""Patches of images of any shape, and images of patches."""

import pytest
import torch

from models.blocks.patchify import patchify, unpatchify


def test_patches_are_in_raster_order_channel_by_channel() -> None:
    images = torch.randn(2, 3, 12, 20)
    patches = patchify(images, 4)
    assert patches.shape == (2, 15, 48)
    torch.testing.assert_close(patches[1, 5 + 2], images[1, :, 4:8, 8:12].flatten())


@pytest.mark.parametrize(("channels", "height", "width"), [(3, 16, 16), (1, 8, 24), (5, 20, 4)])
def test_images_of_any_shape_and_channels_are_put_back(
    channels: int, height: int, width: int
) -> None:
    images = torch.randn(2, channels, height, width)
    grid = (height // 4, width // 4)
    assert torch.equal(unpatchify(patchify(images, 4), grid, 4), images)


def test_images_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="10 x 8 px do not divide into patches of 4 px"):
        patchify(torch.zeros(1, 3, 10, 8), 4)
