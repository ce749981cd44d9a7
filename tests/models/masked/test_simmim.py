"""SimMIM: what is hidden, what the loss counts, and that hidden pixels reach no prediction."""

import pytest
import torch
from torch import Tensor

from augment.masking import MaskKey, coarse_mask
from models.blocks.patchify import patchify
from models.encoders.factory import EncoderConfig
from models.masked.simmim import SimMIM, SimMIMConfig
from models.registry import build_method
from tests.models.masked.photograph import make_batch, tiles

VIT = EncoderConfig(name="vit_tiny_small", width=8)


def build(size: int = 32, **settings: float) -> SimMIM:
    config = SimMIMConfig(**{"mask_size": 8, **settings})  # type: ignore[arg-type]
    method = build_method(config, VIT, SimMIM.default_views(size), 0)
    assert isinstance(method, SimMIM)
    return method


def drawn(method: SimMIM, count: int) -> Tensor:
    batch = make_batch(tiles(count))
    key = MaskKey(method.seed, batch["epoch"], batch["sample_id"])
    return coarse_mask(method.grid, method.unit, method.mask_ratio, key)


def test_loss_counts_hidden_squares_only_and_equals_a_naive_loop() -> None:
    method = build()
    batch = make_batch(tiles(3))
    images = batch["views"]["global_crops"][0]
    mask = drawn(method, 3)
    assert mask.sum(1).tolist() == [40] * 3  # 10 of 16 squares of 2 x 2 patches
    prediction = method._predict(images, batch)[2]
    errors = []
    for sample in range(3):
        for patch in range(64):
            if mask[sample, patch]:
                row, column = 4 * (patch // 8), 4 * (patch % 8)
                pixels = images[sample, :, row : row + 4, column : column + 4].flatten()
                errors.append((prediction[sample, patch] - pixels).abs().mean())
    torch.testing.assert_close(
        method(batch)["loss"], torch.stack(errors).mean(), rtol=1e-4, atol=1e-5
    )


def test_predicting_the_truth_costs_nothing_whatever_is_said_of_visible_pixels() -> None:
    method = build()
    batch = make_batch(tiles(2))
    truth = patchify(batch["views"]["global_crops"][0], 4)
    mask = drawn(method, 2)
    answer = torch.where(mask.unsqueeze(-1), truth, truth + 5)
    method.predict.register_forward_hook(lambda module, inputs, output: answer)
    assert method(batch)["loss"] == 0


def test_hidden_pixels_do_not_reach_the_prediction() -> None:
    method = build()
    batch = make_batch(tiles(4))
    images = batch["views"]["global_crops"][0]
    pixels = drawn(method, 4).view(4, 1, 8, 8).repeat_interleave(4, 2).repeat_interleave(4, 3)
    changed = torch.where(pixels, torch.randn_like(images), images)
    assert torch.equal(method._predict(changed, batch)[2], method._predict(images, batch)[2])


def test_squares_that_do_not_fit_the_patches_are_refused() -> None:
    for size in (6, 64):
        with pytest.raises(ValueError, match=r"method\.mask_size must be a multiple of .* 4 px"):
            build(mask_size=size)
