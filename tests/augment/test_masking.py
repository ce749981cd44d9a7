"""augment.masking: masks have an exact size, are uniform, and belong to their sample."""

import pytest
import torch
from torch import Tensor

from augment.masking import random_mask


def masks(
    num_tokens: int = 64, mask_ratio: float = 0.75, samples: Tensor | None = None, **key: int
) -> tuple[Tensor, Tensor]:
    samples = torch.arange(2000) if samples is None else samples
    return random_mask(
        num_tokens, mask_ratio, seed=0, epoch=torch.zeros_like(samples), sample_id=samples, **key
    )


@pytest.mark.parametrize(
    ("num_tokens", "mask_ratio", "num_visible"), [(196, 0.75, 49), (64, 0.75, 16), (10, 0.33, 7)]
)
def test_every_sample_shows_the_same_number_of_tokens(
    num_tokens: int, mask_ratio: float, num_visible: int
) -> None:
    visible, mask = masks(num_tokens, mask_ratio)
    assert visible.shape == (2000, num_visible) and visible.dtype == torch.int64
    assert mask.dtype == torch.bool and (mask.sum(dim=1) == num_tokens - num_visible).all()


def test_the_visible_tokens_are_ascending_and_the_rest_is_masked() -> None:
    visible, mask = masks()
    assert (visible.diff(dim=1) > 0).all()
    for row, hidden in zip(visible[:20].tolist(), mask[:20], strict=True):
        assert sorted(row + hidden.nonzero().squeeze(1).tolist()) == list(range(64))


def test_every_token_and_every_pair_is_masked_equally_often() -> None:
    mask = masks()[1].double()
    assert (mask.mean(dim=0) - 0.75).abs().max() < 4.5 * (0.75 * 0.25 / 2000) ** 0.5
    # a fixed number of masked tokens correlates each pair by -1 / (N - 1)
    pairs = torch.corrcoef(mask.T) + 1 / 63
    assert pairs.fill_diagonal_(0).abs().max() < 5 / 2000**0.5


def test_a_mask_belongs_to_its_sample_and_view() -> None:
    some = torch.tensor([77, 3])
    assert torch.equal(masks(samples=some)[1], masks()[1][some])
    assert (masks(view=1)[1] != masks()[1]).any(dim=1).all()


@pytest.mark.parametrize("mask_ratio", [0.0, 1.0, 1.2, -0.5, 0.001])
def test_a_ratio_that_masks_nothing_or_everything_is_refused(mask_ratio: float) -> None:
    with pytest.raises(ValueError, match=r"mask_ratio must be in \(0, 1\)"):
        masks(mask_ratio=mask_ratio)
