"""The discriminator: what it sees, and that neither loss reaches the other's parameters."""

import math

import pytest
import torch
from torch import nn

from models.blocks.discriminator import (
    Discriminator,
    judged_by,
    taken_for_made,
    taken_for_real,
)


@pytest.mark.parametrize("size", [2, 4, 16, 18])
def test_images_of_any_side_have_one_score_each(size: int) -> None:
    assert Discriminator(5, size, width=4)(torch.randn(3, 5, size, size)).shape == (3,)


def test_a_pair_is_judged_by_both_of_its_parts() -> None:
    discriminator = Discriminator(3, 16, width=4, beside=6)
    images, vectors = torch.randn(4, 3, 16, 16), torch.randn(4, 6)
    score = discriminator(images, vectors)
    assert not torch.allclose(score, discriminator(images, vectors.roll(1, 0)))
    assert not torch.allclose(score, discriminator(images.roll(1, 0), vectors))


def test_losses_are_the_binary_cross_entropy_and_log_2_where_it_guesses() -> None:
    score = torch.randn(5)
    entropy = nn.BCEWithLogitsLoss(reduction="none")
    torch.testing.assert_close(taken_for_real(score), entropy(score, torch.ones(5)))
    torch.testing.assert_close(taken_for_made(score), entropy(score, torch.zeros(5)))
    assert taken_for_real(torch.zeros(1)).item() == pytest.approx(math.log(2))


def test_a_generators_loss_gives_the_discriminator_no_gradient() -> None:
    discriminator = Discriminator(3, 8, width=4)
    made = torch.randn(4, 3, 8, 8, requires_grad=True)
    torch.testing.assert_close(judged_by(discriminator, made), discriminator(made))
    taken_for_real(judged_by(discriminator, made)).sum().backward()
    assert made.grad is not None and made.grad.any()
    assert all(parameter.grad is None for parameter in discriminator.parameters())
