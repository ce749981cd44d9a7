"""Retrieval between images and captions: ranks as counted one by one, chance as drawn."""

import numpy as np
import pytest
import torch

from models.probing.caption_recall import chance, ranks, recall

OWNER = torch.tensor([0, 0, 1, 2, 2, 2, 3])


def test_ranks_are_those_of_a_loop_and_equals_count_against() -> None:
    similarity = torch.randint(0, 4, (4, 7), generator=torch.Generator().manual_seed(0)).float()
    found = ranks(similarity, OWNER)
    table = similarity.tolist()
    owner = OWNER.tolist()
    for image in range(4):
        best = max(table[image][j] for j in range(7) if owner[j] == image)
        ahead = [j for j in range(7) if owner[j] != image and table[image][j] >= best]
        assert found.captions[image] == len(ahead)
    for j in range(7):
        right = table[owner[j]][j]
        ahead = [i for i in range(4) if i != owner[j] and table[i][j] >= right]
        assert found.images[j] == len(ahead)


def test_what_is_all_alike_finds_nothing_and_what_is_told_apart_everything() -> None:
    same = recall(ranks(torch.zeros(4, 7), OWNER), (1, 3))
    assert same.mean == 0
    own = (OWNER[None] == torch.arange(4)[:, None]).float()
    right = recall(ranks(own, OWNER), (1, 3))
    assert right.mean == 1 and right.to_text == {1: 1, 3: 1}
    assert np.ptp(right.resampled) == 0


def test_chance_is_what_random_orders_find() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = [
        recall(ranks(torch.rand(4, 7, generator=generator), OWNER), (1, 3)) for _ in range(600)
    ]
    for k in (1, 3):
        to_text, to_image = chance(OWNER.numpy(), 4, k)
        assert np.mean([one.to_text[k] for one in draws]) == pytest.approx(to_text, abs=0.03)
        assert np.mean([one.to_image[k] for one in draws]) == pytest.approx(to_image, abs=0.03)
    assert chance(OWNER.numpy(), 4, 100) == (1.0, 1.0)


def test_intervals_draw_an_image_with_all_its_captions() -> None:
    own = torch.zeros(4, 7)
    own[0, :2] = 1  # image 0 and its captions find each other, the others nothing
    own[1:, :2] = 0.5
    found = recall(ranks(own, OWNER), (1,))
    assert found.to_text[1] == pytest.approx(0.25)
    assert found.to_image[1] == pytest.approx(2 / 7)
    # the resampled shares rise and fall together
    both = np.corrcoef(found.resampled_to_text[1], found.resampled_to_image[1])
    assert both[0, 1] > 0.9
