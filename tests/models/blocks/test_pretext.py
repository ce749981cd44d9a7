"""models.blocks.pretext: loss and share of right answers, over valid samples."""

import math

import pytest
import torch
from torch.nn import functional

from models.blocks.pretext import classification


def test_both_are_means_over_valid_samples_by_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 3, 7, generator=generator)
    label = torch.randint(7, (5, 3), generator=generator)
    valid = torch.tensor([True, False, True, True, False])
    kept = [(logits[b, a], label[b, a]) for b in (0, 2, 3) for a in range(3)]
    loss, top1 = classification(logits, label, valid)
    expected = sum(float(functional.cross_entropy(x, y)) for x, y in kept) / len(kept)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert top1.item() == pytest.approx(sum(int(x.argmax() == y) for x, y in kept) / len(kept))


def test_at_chance_the_loss_is_the_log_of_the_classes() -> None:
    loss, _ = classification(torch.zeros(4, 2, 5), torch.ones(4, 2).long(), torch.ones(4).bool())
    assert loss.item() == pytest.approx(math.log(5))


def test_without_a_valid_sample_both_are_zero_and_so_is_the_gradient() -> None:
    logits = torch.randn(4, 2, 5, requires_grad=True)
    loss, top1 = classification(logits, torch.zeros(4, 2).long(), torch.zeros(4).bool())
    loss.backward()
    assert loss.item() == top1.item() == 0.0
    assert logits.grad is not None and not logits.grad.any()
