"""Two losses in one backward pass: two workers get the gradients of one, and each loss its own."""

import pytest
import torch
from torch import Tensor

from tests.adversarial import NAME, registered
from tests.distributed.test_methods_of_two import assert_as_one, my_batch, train_once
from tests.distributed.two_processes import TwoProcesses
from tests.small_methods import build


def train_adversarial() -> dict[str, dict[str, Tensor]]:
    with registered():
        return train_once(NAME)


@pytest.mark.long
def test_two_workers_train_both_sides_as_one_process_with_the_joined_batch(
    two_processes: TwoProcesses,
) -> None:
    expected = train_adversarial()
    assert {key.split(".")[0] for key in expected["gradients"]} == {
        *("encoder", "generator", "discriminator")
    }
    assert_as_one(expected, *two_processes(train_adversarial))


def test_neither_loss_reaches_the_others_parameters() -> None:
    with registered():
        method, _ = build(NAME)
        out = method(my_batch(NAME, epoch=0, dtype=torch.float32))
    theirs = list(method.discriminator.parameters())
    ours = [p for p in method.parameters() if not any(p is other for other in theirs)]
    for loss, reached, spared in (
        (out["loss"], ours, theirs),
        (out["discriminator_loss"], theirs, ours),
    ):
        found = torch.autograd.grad(loss, [*reached, *spared], retain_graph=True, allow_unused=True)
        assert all(gradient is not None for gradient in found[: len(reached)])
        assert all(gradient is None for gradient in found[len(reached) :])
