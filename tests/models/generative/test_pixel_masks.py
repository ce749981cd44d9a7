"""Hidden regions: how much they hide, that they are keyed, and how they are widened."""

import pytest
import torch
from torch import Tensor

from models.generative.pixel_masks import Shape, hidden_pixels, widen

SIZE = 32


def draw(shape: Shape, num: int = 200, epoch: int = 0, seed: int = 0) -> Tensor:
    sample_id = torch.arange(num)
    epochs = torch.full_like(sample_id, epoch)
    return hidden_pixels(shape, SIZE, seed=seed, epoch=epochs, sample_id=sample_id)


def test_the_central_mask_is_the_middle_quarter_of_every_image() -> None:
    hidden = draw("central", 2)
    assert hidden.shape == (2, 1, SIZE, SIZE) and hidden[:, :, 8:24, 8:24].all()
    assert hidden.sum() == 2 * 16 * 16


@pytest.mark.parametrize("shape", ["blocks", "region"])
def test_drawn_masks_hide_a_quarter_at_most_and_differ(shape: Shape) -> None:
    hidden = draw(shape)
    share = hidden.float().mean((1, 2, 3))
    assert share.max() <= 0.25 + 1e-6 and share.min() >= 1 / 8**2 and share.mean() > 0.15
    # every place is hidden at times, the border too
    assert draw(shape, 3000).any(0).all()
    assert len(hidden.flatten(1).unique(dim=0)) == len(hidden)


@pytest.mark.parametrize("shape", ["blocks", "region"])
def test_a_sample_has_its_own_mask_in_any_batch_and_another_one_each_epoch(shape: Shape) -> None:
    hidden = draw(shape)
    assert torch.equal(draw(shape, 3), hidden[:3])
    assert not torch.equal(draw(shape, epoch=1), hidden)
    assert not torch.equal(draw(shape, seed=1), hidden)


def test_blocks_are_rectangles_and_regions_are_not() -> None:
    def filled(hidden: Tensor) -> Tensor:
        """Share of the box around what is hidden."""
        rows = hidden.any(3).sum((1, 2))
        columns = hidden.any(2).sum((1, 2))
        return hidden.sum((1, 2, 3)) / (rows * columns)

    # of a region of noise no box is full
    assert (filled(draw("region")) < 0.9).all()
    assert (filled(draw("central", 1)) == 1).all()


def test_widening_adds_a_rim_on_every_side() -> None:
    hidden = torch.zeros(1, 1, 9, 9, dtype=torch.bool)
    hidden[..., 4, 4] = True
    wide = widen(hidden, 2)
    assert wide[..., 2:7, 2:7].all() and wide.sum() == 25
    assert torch.equal(widen(hidden, 0), hidden)
