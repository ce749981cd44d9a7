"""augment.multi_block: targets and a context without them, of one shape whatever was drawn."""

import pytest
import torch

from augment.masking import MaskKey
from augment.multi_block import MultiBlock, largest_target, multi_block, usual_context

RECIPE = MultiBlock((14, 14))


def key_of(num: int, epoch: int = 0) -> MaskKey:
    samples = torch.arange(num)
    return MaskKey(0, torch.full_like(samples, epoch), samples)


def test_no_token_of_a_target_is_in_the_context_and_sizes_are_the_papers() -> None:
    num_context = usual_context(RECIPE)
    blocks = multi_block(RECIPE, num_context, key_of(500))
    assert blocks.context.shape == (500, num_context)
    assert blocks.targets.shape == (500, 4, largest_target(RECIPE))
    assert not (blocks.in_context & blocks.in_target.any(1)).any()
    assert blocks.in_context.gather(1, blocks.context).all()
    assert (blocks.context.diff(dim=1) >= 0).all()
    size = blocks.in_target.sum(2)
    assert size.min() >= 0.12 * 196 and size.max() <= largest_target(RECIPE) <= 0.23 * 196
    fewer = blocks.in_context.sum(1) < num_context
    assert 0 < fewer.float().mean() < 0.2


def test_each_target_is_told_token_by_token_with_its_repeats_named() -> None:
    blocks = multi_block(RECIPE, 40, key_of(50))
    for sample in range(50):
        for target in range(4):
            inside = blocks.in_target[sample, target].nonzero().flatten().tolist()
            counted = blocks.counted[sample, target]
            assert blocks.targets[sample, target][counted].tolist() == inside
            assert set(blocks.targets[sample, target].tolist()) == set(inside)
            rows = sorted({token // 14 for token in inside})
            columns = sorted({token % 14 for token in inside})
            assert len(inside) == len(rows) * len(columns)  # a rectangle
            assert 0.5 < len(rows) / len(columns) < 2


def test_blocks_belong_to_their_sample_and_epoch() -> None:
    all_of_them = multi_block(RECIPE, 40, key_of(20))
    one = multi_block(RECIPE, 40, MaskKey(0, torch.tensor([0]), torch.tensor([7])))
    later = multi_block(RECIPE, 40, key_of(20, epoch=1))
    for whole, alone, other in zip(all_of_them, one, later, strict=True):
        assert torch.equal(whole[7:8], alone)
        assert not torch.equal(whole, other)


def test_a_coarse_grid_whose_targets_cover_all_still_has_a_context() -> None:
    recipe = MultiBlock((4, 4), num_targets=8, target_scale=(0.5, 0.6))
    blocks = multi_block(recipe, 3, key_of(300))
    assert not (blocks.in_context & blocks.in_target.any(1)).any()
    assert (blocks.in_context.sum(1) >= 1).all() and (blocks.in_context.sum(1) == 1).any()
    assert blocks.in_context.gather(1, blocks.context).all()
    with pytest.raises(ValueError, match=r"method\.num_targets=8 .* leave next to no context"):
        usual_context(recipe)
    assert usual_context(MultiBlock((8, 8))) > 8
