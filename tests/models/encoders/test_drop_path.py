"""Branches left out at random: which share, what is left, and when nothing is."""

import torch

from models.encoders.drop_path import DropPath


def test_a_share_of_samples_is_left_out_whole_and_the_mean_is_kept() -> None:
    torch.manual_seed(0)
    branch = torch.rand(20_000, 2, 3) + 0.5
    found = DropPath(0.3)(branch)
    kept = found.flatten(1).any(1)
    assert abs(kept.float().mean().item() - 0.7) < 0.02
    torch.testing.assert_close(found[kept], branch[kept] / 0.7)
    assert not found[~kept].any()


def test_nothing_is_left_out_in_evaluation_or_of_a_share_of_0() -> None:
    branch = torch.rand(50, 4)
    assert DropPath(0.9).eval()(branch) is branch
    assert DropPath(0.0)(branch) is branch
