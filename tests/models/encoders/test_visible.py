"""Patches that a convolutional network may see: nothing else reaches what it makes of them."""

import pytest
import torch

from models.encoders.factory import EncoderConfig, build_encoder
from models.encoders.visible import Visible

KEEP = torch.tensor([[0, 3, 5], [5, 2, 2]])  # of 2 x 3 patches; one stands there twice
GRID = (2, 3)


def test_patches_are_cut_out_and_put_back_with_zeros_where_none_is_visible() -> None:
    x = torch.randn(2, 4, 8, 6)
    seen = Visible(KEEP, GRID)
    taken = seen.take(x)
    hidden = torch.zeros_like(x)
    for sample, places in enumerate(KEEP.tolist()):
        for number, place in enumerate(places):
            row, column = divmod(place, 3)
            where = (
                sample,
                slice(None),
                slice(4 * row, 4 * row + 4),
                slice(2 * column, 2 * column + 2),
            )
            assert torch.equal(taken[sample, number], x[where])
            hidden[where] = x[where]
    assert torch.equal(seen.put(taken), hidden) and torch.equal(seen.hide(x), hidden)


def test_a_norm_measures_visible_patches_alone() -> None:
    x = torch.randn(2, 4, 8, 6) + 3
    seen = Visible(KEEP[:, :2], GRID)
    norm, expected = torch.nn.BatchNorm2d(4), torch.nn.BatchNorm2d(4)
    found = seen.norm(norm, x)
    torch.testing.assert_close(seen.take(found).flatten(0, 1), expected(seen.take(x).flatten(0, 1)))
    torch.testing.assert_close(norm.running_mean, expected.running_mean)
    assert torch.equal(seen.hide(found), found)


@pytest.mark.parametrize("training", [True, False])
def test_a_small_resnet_sees_the_kept_patches_and_nothing_of_the_others(training: bool) -> None:
    encoder = build_encoder(EncoderConfig(name="resnet18_small", width=8), 32).train(training)
    keep = torch.stack([torch.randperm(16)[:6].sort().values for _ in range(3)])
    images = torch.randn(3, 3, 32, 32)
    shown = torch.zeros(3, 16, dtype=torch.bool).scatter(1, keep, True).view(3, 1, 4, 4)
    pixels = shown.repeat_interleave(8, 2).repeat_interleave(8, 3)
    changed = torch.where(pixels, images, torch.randn_like(images))
    first, second = (encoder.places(given, keep).patches for given in (images, changed))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert first.shape == (3, 6, 64) and (first.std(1) > 0).any()
    elsewhere = encoder.places(torch.where(pixels, torch.randn_like(images), images), keep)
    assert not torch.allclose(elsewhere.patches, first)


def test_all_patches_kept_give_the_places_of_the_map() -> None:
    encoder = build_encoder(EncoderConfig(name="resnet18_small", width=8), 32)
    images = torch.randn(4, 3, 32, 32)
    whole = encoder.places(images).patches
    assert torch.equal(whole, encoder.maps(images).flatten(2).mT) and encoder.grid == (4, 4)
    kept = encoder.places(images, torch.arange(16).expand(4, -1)).patches
    torch.testing.assert_close(kept, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (EncoderConfig(name="resnet18_small", width=8, norm="layer"), 32),
        (EncoderConfig(name="resnet18_small", width=8), 36),
        (EncoderConfig(name="resnet18"), 64),
    ],
)
def test_what_cannot_leave_out_patches_says_so(config: EncoderConfig, size: int) -> None:
    with pytest.raises(ValueError, match=r"cannot leave out hidden patches; .* views.size a multi"):
        build_encoder(config, size).require("places", by="method.name=ijepa")
