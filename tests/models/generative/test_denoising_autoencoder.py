"""The denoising autoencoder: what is corrupted, what the loss counts, and what the damage is
for."""

import pytest
import torch

from models.encoders.factory import EncoderConfig
from models.generative.denoising_autoencoder import (
    DenoisingAutoencoder,
    DenoisingAutoencoderConfig,
)
from models.registry import build_method
from tests.models.masked.photograph import make_batch, tiles

RESNET = EncoderConfig(width=8)
VIT = EncoderConfig(name="vit_tiny_small", width=8)


def build(encoder: EncoderConfig = RESNET, **settings: object) -> DenoisingAutoencoder:
    config = DenoisingAutoencoderConfig(**{"decoder_width": 8, "mask_size": 4, **settings})  # type: ignore[arg-type]
    method = build_method(config, encoder, DenoisingAutoencoder.default_views(32), 0)
    assert isinstance(method, DenoisingAutoencoder)
    return method


@pytest.mark.parametrize(
    ("mask", "hidden"),
    [
        ("top_from_bottom", (slice(0, 16), slice(None))),
        ("right_from_left", (slice(None), slice(16, 32))),
        ("past_from_present", (slice(0, 16), slice(None))),
    ],
)
def test_the_side_that_is_told_is_hidden_and_the_other_left(
    mask: str, hidden: tuple[slice, slice]
) -> None:
    method = build(mask=mask, mask_ratio=(0.5, 0.5))
    batch = make_batch(tiles(2))
    images = batch["views"]["global_crops"][0]
    corrupted, where = method._corrupt(images, batch)
    expected = torch.zeros(2, 1, 32, 32, dtype=torch.bool)
    expected[:, :, hidden[0], hidden[1]] = True
    assert torch.equal(where, expected)
    assert torch.equal(corrupted, images.masked_fill(expected, 0.0))


@pytest.mark.parametrize("mask", ["random", "blocks"])
def test_drawn_masks_hide_their_share_by_sample_and_epoch(mask: str) -> None:
    method = build(mask=mask, mask_ratio=(0.25, 0.5))
    images = tiles(40)
    _, first = method._corrupt(images, make_batch(images))
    _, later = method._corrupt(images, make_batch(images, epoch=1))
    share = first.float().mean((1, 2, 3))
    assert share.min() >= 0.25 - 0.01 and share.max() <= 0.5 + 0.01 and share.std() > 0.03
    assert (first != later).flatten(1).any(1).all()


def test_noise_is_normal_and_keyed() -> None:
    method = build(mask="none", noise_std=0.5)
    images = tiles(20)
    batch = make_batch(images)
    corrupted, where = method._corrupt(images, batch)
    noise = (corrupted - images) / 0.5
    assert not where.any() and noise.isfinite().all()
    assert noise.mean().abs() < 0.02 and noise.std().item() == pytest.approx(1, abs=0.02)
    assert (noise.abs() < 1).float().mean().item() == pytest.approx(0.683, abs=0.01)
    assert torch.equal(corrupted, method._corrupt(images, batch)[0])
    assert not torch.equal(corrupted, method._corrupt(images, make_batch(images, epoch=1))[0])


@pytest.mark.parametrize("encoder", [RESNET, VIT], ids=["resnet", "vit"])
def test_loss_weighs_what_was_visible_and_its_target_is_clean(encoder: EncoderConfig) -> None:
    method = build(encoder, noise_std=0.2, visible_weight=0.25)
    batch = make_batch(tiles(4))
    images = batch["views"]["global_crops"][0]
    corrupted, hidden = method._corrupt(images, batch)
    painted = method.decoder(method.encoder.maps(corrupted))
    per_sample = []
    errors = []
    for sample in range(4):
        gap = (painted[sample] - images[sample]).square().mean(0)
        inside = gap[hidden[sample, 0]]
        outside = gap[~hidden[sample, 0]]
        total = inside.sum() + 0.25 * outside.sum()
        per_sample.append(total / (len(inside) + 0.25 * len(outside)))
        errors.append(inside.mean())
    out = method(batch)
    torch.testing.assert_close(out["loss"], torch.stack(per_sample).mean(), rtol=1e-3, atol=1e-4)
    expected = torch.stack(errors).mean().detach()
    torch.testing.assert_close(out["hidden_error"], expected, rtol=1e-3, atol=1e-4)


def train(method: DenoisingAutoencoder, num_steps: int) -> float:
    images = tiles(16)
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    for step in range(num_steps):
        loss = method(make_batch(images, epoch=step))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


@pytest.mark.slow
def test_without_its_corruption_the_image_is_copied() -> None:
    assert train(build(mask="none"), 40) < 0.8 * train(build(mask_ratio=(0.75, 0.75)), 40)


def test_squares_that_do_not_divide_the_image_are_refused() -> None:
    with pytest.raises(ValueError, match=r"method\.mask_size must divide views\.size=32, got 5"):
        build(mask_size=5)
    with pytest.raises(ValueError, match=r"method\.mask_ratio must stay below 1"):
        build(mask_ratio=(0.5, 1.0))
