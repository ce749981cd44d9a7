"""MoCo v1 and v2: what the queue holds, when, and what the loss makes of it."""

import math

import pytest
import torch
from torch.nn import functional

from augment.presets import moco_v2_views
from models.contrastive.moco import MoCo, MoCoConfig
from models.registry import build_method
from tests.small_methods import ENCODERS, NUM_SAMPLES, SIZE, make_batch


def build(**settings: float | str | None) -> MoCo:
    small = {"hidden_dim": 32, "projection_dim": 16, "queue_size": 20}
    config = MoCoConfig(**small | settings)  # type: ignore[arg-type]
    method = build_method(config, ENCODERS[0], moco_v2_views(SIZE), 0)
    assert isinstance(method, MoCo)
    return method


def test_loss_is_each_querys_key_among_the_queue_by_a_loop() -> None:
    method, batch = build(temperature=0.3, group_size=None), make_batch("moco")
    batch["valid"][3] = False
    first, second = batch["views"]["global_crops"]
    queries = functional.normalize(method.projection_head(method.encoder(first)), dim=1).detach()
    keys = functional.normalize(method.teacher(second), dim=1)
    losses = []
    for i in range(NUM_SAMPLES):
        scores = [float(queries[i] @ row) / 0.3 for row in [keys[i], *method.queue.rows]]
        losses.append(math.log(sum(math.exp(score) for score in scores)) - scores[0])
    del losses[3]
    assert method(batch)["loss"].item() == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_valid_keys_of_a_step_enter_the_queue_after_it() -> None:
    method, batch = build(group_size=None), make_batch("moco")
    batch["valid"][3] = False
    before = method.queue.rows.clone()
    keys = functional.normalize(method.teacher(batch["views"]["global_crops"][1]), dim=1)[
        batch["valid"]
    ]
    method(batch)
    assert torch.equal(method.queue.rows, before)
    method.after_step(1, 10)
    torch.testing.assert_close(method.queue.rows[:11], keys.detach())
    assert torch.equal(method.queue.rows[11:], before[11:])
    method.after_step(2, 10)  # nothing was seen since
    torch.testing.assert_close(method.queue.rows[:11], keys.detach())


def test_keys_are_encoded_among_other_samples_than_their_queries() -> None:
    method, batch = build(group_size=3), make_batch("moco")
    seen: list[torch.Tensor] = []
    method.teacher.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    method(batch)
    images = batch["views"]["global_crops"][1]
    order = [
        next(i for i in range(NUM_SAMPLES) if torch.equal(image, images[i])) for image in seen[0]
    ]
    assert sorted(order) == list(range(NUM_SAMPLES)) != order
    assert method._seen is not None
    with torch.no_grad():  # the keys come back in the order of their queries
        twin = build(group_size=3)
        for group in range(4):  # each by itself, as on a device of its own
            members = order[3 * group : 3 * group + 3]
            keys = functional.normalize(twin.teacher(images[members]), dim=1)
            torch.testing.assert_close(method._seen[0][members], keys)
    again = make_batch("moco", epoch=1)
    method(again)
    assert not torch.equal(seen[1], again["views"]["global_crops"][1][order])  # drawn anew


def test_teacher_starts_equal_and_moves_its_share_in_a_step() -> None:
    method = build(momentum=0.9)
    student = [*method.encoder.parameters(), *method.projection_head.parameters()]
    before = [parameter.clone() for parameter in method.teacher.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(student, before, strict=True))
    with torch.no_grad():
        for parameter in student:
            parameter += 1
    method.after_step(1, 10)
    for old, new in zip(before, method.teacher.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.1)


def test_v1_has_a_linear_head_and_v2_two_layers_without_norm() -> None:
    assert [type(layer).__name__ for layer in build(head="linear").projection_head] == ["Linear"]
    assert [type(layer).__name__ for layer in build().projection_head] == [
        "Linear",
        "ReLU",
        "Linear",
    ]


def test_a_queue_smaller_than_the_batch_is_refused_by_key() -> None:
    method = build(queue_size=8)
    method(make_batch("moco"))
    with pytest.raises(ValueError, match=r"method\.queue_size"):
        method.after_step(1, 10)
