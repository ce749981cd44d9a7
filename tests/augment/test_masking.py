"""augment.masking: masks have an exact size, the shape they are called by, and belong to their
sample."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from augment.masking import (
    MaskKey,
    block_mask,
    coarse_mask,
    drawn_num_hidden,
    inverse_block_mask,
    ordered_mask,
    random_mask,
    rolled_block_mask,
    tube_mask,
    visible_tokens,
)

GRID = (14, 14)


def key_of(samples: Tensor | int = 2000, epoch: int = 0, view: int = 0, index: int = 0) -> MaskKey:
    samples = torch.arange(samples) if isinstance(samples, int) else samples
    return MaskKey(0, torch.full_like(samples, epoch), samples, view, index)


def masks(num_tokens: int = 64, mask_ratio: float = 0.75) -> tuple[Tensor, Tensor]:
    return random_mask(num_tokens, mask_ratio, key_of())


DRAWN: dict[str, tuple[Callable[[MaskKey], Tensor], int]] = {
    "random": (lambda key: random_mask(196, 0.75, key)[1], 147),
    "coarse": (partial(coarse_mask, GRID, 2, 0.6), 29 * 4),
    "block": (partial(block_mask, GRID, 78), 78),
    "inverse_block": (partial(inverse_block_mask, GRID, 0.8), 157),
    "rolled_block": (partial(rolled_block_mask, GRID, 0.65), 127),
}


def naive_clusters(mask: Tensor) -> float:
    """Share of neighbours, right and below, that are hidden alike."""
    square = mask.view(-1, *GRID)
    right = (square[:, :, 1:] == square[:, :, :-1]).float().mean()
    below = (square[:, 1:] == square[:, :-1]).float().mean()
    return float((right + below) / 2)


@pytest.mark.parametrize("kind", list(DRAWN))
def test_a_mask_has_its_size_and_belongs_to_its_sample_epoch_view_and_index(kind: str) -> None:
    draw, num_hidden = DRAWN[kind]
    mask = draw(key_of(500))
    assert mask.shape == (500, 196) and mask.dtype == torch.bool
    assert (mask.sum(1) == num_hidden).all()
    some = torch.tensor([77, 3])
    assert torch.equal(draw(key_of(some)), mask[some])
    for other in (key_of(500, epoch=1), key_of(500, view=1), key_of(500, index=1)):
        assert (draw(other) != mask).any(dim=1).float().mean() > 0.99
    visible = visible_tokens(mask, 196 - num_hidden)
    assert (visible.diff(dim=1) > 0).all()
    assert not mask.gather(1, visible).any()


@pytest.mark.parametrize(
    ("num_tokens", "mask_ratio", "num_visible"), [(196, 0.75, 49), (64, 0.75, 16), (10, 0.33, 7)]
)
def test_every_sample_shows_the_same_number_of_tokens(
    num_tokens: int, mask_ratio: float, num_visible: int
) -> None:
    visible, mask = masks(num_tokens, mask_ratio)
    assert visible.shape == (2000, num_visible) and visible.dtype == torch.int64
    assert mask.dtype == torch.bool and (mask.sum(dim=1) == num_tokens - num_visible).all()
    assert torch.equal(visible_tokens(mask, num_visible), visible)


def test_every_token_and_every_pair_is_masked_equally_often() -> None:
    mask = masks()[1].double()
    assert (mask.mean(dim=0) - 0.75).abs().max() < 4.5 * (0.75 * 0.25 / 2000) ** 0.5
    # a fixed number of masked tokens correlates each pair by -1 / (N - 1)
    pairs = torch.corrcoef(mask.T) + 1 / 63
    assert pairs.fill_diagonal_(0).abs().max() < 5 / 2000**0.5


@pytest.mark.parametrize("mask_ratio", [0.0, 1.0, 1.2, -0.5, 0.001])
def test_a_ratio_that_masks_nothing_or_everything_is_refused(mask_ratio: float) -> None:
    with pytest.raises(ValueError, match=r"mask_ratio must be in \(0, 1\)"):
        masks(mask_ratio=mask_ratio)


def test_coarse_masks_hide_whole_squares() -> None:
    squares = coarse_mask((8, 12), 4, 0.5, key_of(50)).view(50, 2, 4, 3, 4)
    assert (squares == squares[:, :, :1, :, :1]).all()
    assert (squares[:, :, 0, :, 0].sum((1, 2)) == 3).all()
    with pytest.raises(ValueError, match="squares of 3 tokens do not cover a grid of 8 x 12"):
        coarse_mask((8, 12), 3, 0.5, key_of(1))


def test_block_masks_hang_together_and_reach_everywhere() -> None:
    mask = block_mask(GRID, 78, key_of())
    assert naive_clusters(mask) > naive_clusters(random_mask(196, 78 / 196, key_of())[1]) + 0.25
    often = mask.float().mean(0).view(GRID)
    assert often.min() > 0.03 and often.max() < 0.8  # corners seldom, as in the paper
    assert (often - often.flip(1)).abs().max() < 0.06


def test_block_masks_take_another_size_for_each_sample() -> None:
    key = key_of()
    count = drawn_num_hidden(196, (0.1, 0.5), 0.5, key)
    assert torch.equal(block_mask(GRID, count, key).sum(1), count)
    assert (count > 0).float().mean().item() == pytest.approx(0.5, abs=0.04)
    share = count[count > 0] / 196
    assert share.min() >= 0.1 - 0.003 and share.max() <= 0.5 + 0.003
    assert share.mean().item() == pytest.approx(0.3, abs=0.02)
    full = torch.full_like(count, 196)
    assert block_mask(GRID, full, key).all()


def test_inverse_block_masks_show_blocks() -> None:
    mask = inverse_block_mask(GRID, 0.8, key_of())
    assert naive_clusters(mask) > naive_clusters(random_mask(196, 0.8, key_of())[1]) + 0.1
    # one block, never adjusted: 3 x 3 tokens around its place, in the middle or cut by the border
    alone = ~inverse_block_mask((9, 9), 1 - 9 / 81, key_of(200), adjust=0.0).view(-1, 9, 9)
    inner = alone[:, 1:-1, 1:-1]
    whole = torch.nn.functional.avg_pool2d(alone.float().unsqueeze(1), 3, 1).amax((1, 2, 3)) == 1
    assert whole.float().mean().item() == pytest.approx((7 / 9) ** 2, abs=0.1) and inner.any()


def test_rolled_blocks_hide_every_token_equally_often() -> None:
    mask = rolled_block_mask(GRID, 0.65, key_of(4000))
    often = mask.float().mean(0)
    assert (often - 127 / 196).abs().max() < 5 * (0.65 * 0.35 / 4000) ** 0.5
    assert naive_clusters(mask) > 0.8


@pytest.mark.parametrize(
    ("order", "hidden"),
    [
        ("top_from_bottom", range(8)),
        ("bottom_from_top", range(4, 12)),
        ("left_from_right", (0, 1, 4, 5, 8, 9)),
        ("right_from_left", (2, 3, 6, 7, 10, 11)),
        ("past_from_present", range(7)),
        ("future_from_past", range(5, 12)),
    ],
)
def test_ordered_masks_hide_their_side(order: str, hidden: range | tuple[int, ...]) -> None:
    mask = ordered_mask((3, 4), 7, order, key_of(2))  # type: ignore[arg-type]
    assert mask[0].nonzero().flatten().tolist() == list(hidden)
    assert torch.equal(mask[0], mask[1])
    square = ordered_mask((4, 4), 4, order, key_of(1)).view(4, 4)  # type: ignore[arg-type]
    assert square.all(dim=0).any() == (order in ("left_from_right", "right_from_left"))
    counts = torch.tensor([0, 12])
    assert ordered_mask((3, 4), counts, order, key_of(2)).float().mean(1).tolist() == [0, 1]  # type: ignore[arg-type]


def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(ValueError, match=r"order must be one of top_from_bottom, .* got sideways"):
        ordered_mask((2, 2), 1, "sideways", key_of(1))  # type: ignore[arg-type]


def test_a_tube_hides_the_same_places_at_every_instant() -> None:
    key = MaskKey(0, torch.zeros(4, dtype=torch.long), torch.arange(4))
    visible, mask = tube_mask(20, 3, 0.9, key)
    at_first, first = random_mask(20, 0.9, key)
    assert torch.equal(mask, first.repeat(1, 3))
    assert visible.tolist() == torch.cat([at_first, at_first + 20, at_first + 40], 1).tolist()
