import numpy as np
import torch

from models.probing.patch_votes import choose_patches, colour_maps, patch_scores, shares_of


def test_a_patch_counts_the_share_of_its_labelled_pixels() -> None:
    mask = torch.full((1, 4, 4), 255, dtype=torch.uint8)
    mask[0, :2, :2] = torch.tensor([[0, 0], [1, 255]])
    mask[0, 2:, 2:] = 1
    shares = shares_of(mask, (2, 2), 2)
    expected = [[2 / 3, 1 / 3], [0, 0], [0, 0], [0, 1]]
    torch.testing.assert_close(shares[0], torch.tensor(expected))


def test_the_choice_of_an_images_patches_does_not_depend_on_its_batch() -> None:
    labelled = np.random.default_rng(0).random((3, 50)) < 0.7
    keys = np.array([5, -9, 7])
    whole = choose_patches(labelled, keys, most=10, seed=0)
    assert (whole.sum(1) == 10).all() and not (whole & ~labelled).any()
    alone = choose_patches(labelled[1:2], keys[1:2], most=10, seed=0)
    assert (alone[0] == whole[1]).all()
    assert (choose_patches(labelled, keys, most=10, seed=1) != whole).any()


def test_the_nearest_patches_tell_the_pixels() -> None:
    images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    images[:, :, :, 4:] = 250
    maps = colour_maps(images, (4, 4))
    assert maps.shape == (1, 30, 4, 4)
    memory = maps[0, :, 0, [0, 3]].T  # a dark patch and a light one
    scores = patch_scores(memory, torch.eye(2), maps, 8, ks=(1, 2), temperature=0.1)
    assert scores.shape == (2, 1, 2, 8, 8)
    torch.testing.assert_close(scores.sum(2), torch.ones(2, 1, 8, 8))
    told = scores[0, 0].argmax(0)
    assert (told[:, :3] == 0).all() and (told[:, 5:] == 1).all()
