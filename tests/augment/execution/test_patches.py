"""Changes of patches: keyed by patch, each what it says, and none by default."""

import torch
from torch import Tensor

from augment.execution.patches import PatchChanges, _warp, change_patches, sample_patches

ALL = PatchChanges(subcrop=0.9, flip=0.5, channel_drop=0.5, warp=1.0)


def keys(count: int, epoch: int = 0) -> dict[str, object]:
    return {"seed": 0, "epoch": torch.full((count,), epoch), "sample_id": torch.arange(count) + 5}


def patches(count: int = 3, side: int = 8) -> Tensor:
    return torch.randn(count, 2, 2, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_nothing_happens_by_default() -> None:
    x = patches()
    assert change_patches(x, PatchChanges(), **keys(3)) is x


def test_a_patch_changes_alike_in_any_batch_and_otherwise_in_another_epoch() -> None:
    x = patches()
    whole = change_patches(x, ALL, **keys(3))
    alone = change_patches(
        x[2:], ALL, seed=0, epoch=torch.zeros(1).long(), sample_id=torch.tensor([7])
    )
    torch.testing.assert_close(whole[2:], alone)
    assert not torch.equal(whole, change_patches(x, ALL, **keys(3, epoch=1)))


def test_patches_of_an_image_draw_apart() -> None:
    draws = sample_patches(ALL, 4, **keys(1))  # type: ignore[arg-type]
    assert all(len(value) == 4 for value in draws.values())
    assert len(draws["degrees"].unique()) == 4 and len(draws["place"].unique(dim=0)) == 4


def test_a_subcrop_is_moved_to_the_middle_and_the_rest_is_blank() -> None:
    x = patches(side=8) + 10
    changed = change_patches(x, PatchChanges(subcrop=6 / 8), **keys(3))
    place = (sample_patches(PatchChanges(), 4, **keys(3))["place"] * 3).long()  # type: ignore[arg-type]
    top, left = place[4 * 1 + 2].tolist()  # image 1, row 1, column 0
    expected = torch.zeros(3, 8, 8)
    expected[:, 1:7, 1:7] = x[1, 1, 0, :, top : top + 6, left : left + 6]
    assert torch.equal(changed[1, 1, 0], expected)


def test_two_of_three_channels_are_blanked_where_drawn() -> None:
    changed = change_patches(patches(40), PatchChanges(channel_drop=0.5), **keys(40))
    left = changed.abs().amax(dim=(-1, -2)).gt(0).sum(-1)
    assert set(left.unique().tolist()) == {1, 3}
    assert 0.3 < (left == 1).float().mean() < 0.7


def test_a_warp_of_nothing_is_the_patch_and_a_turn_by_a_quarter_is_exact() -> None:
    x = patches()
    still = PatchChanges(warp=1.0, degrees=0.0, shear=0.0, elastic=0.0)
    torch.testing.assert_close(change_patches(x, still, **keys(3)), x, rtol=0, atol=1e-5)
    flat, quarter = x.flatten(0, 2), torch.full((12,), 90.0)
    zero = torch.zeros(12)
    turned = _warp(flat, quarter, zero, torch.zeros(12, 2, 3, 3))
    torch.testing.assert_close(turned, flat.rot90(dims=(2, 3)), rtol=0, atol=1e-4)


def test_a_mirror_is_exact() -> None:
    x = patches()
    assert torch.equal(change_patches(x, PatchChanges(flip=1.0), **keys(3)), x.flip(-1))
