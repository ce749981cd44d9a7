"""DINO: centring, sharpening, the last layer that waits, and the teacher that ships."""

import pytest
import torch
from torch.nn import functional

from models.joint_embedding.dino import DINO, DINOConfig
from models.registry import build_method
from tests.small_methods import ENCODERS, NUM_SAMPLES, SIZE, make_batch


def build(**settings: float) -> DINO:
    config = DINOConfig(**{"hidden_dim": 32, "bottleneck_dim": 16, "num_prototypes": 12} | settings)  # type: ignore[arg-type]
    method = build_method(config, ENCODERS[1], DINO.default_views(SIZE), 0)
    assert isinstance(method, DINO)
    return method


def test_views_are_multi_crop_with_the_papers_scales() -> None:
    views = DINO.default_views(224).groups
    assert [(group.count, group.size, group.scale) for group in views.values()] == [
        (1, None, (0.4, 1.0)),
        (1, None, (0.4, 1.0)),
        (8, 96, (0.05, 0.4)),
    ]


def test_loss_is_the_cross_entropy_of_all_pairs_of_unlike_views_by_a_loop() -> None:
    method, batch = build(), make_batch("dino")
    method.center.copy_(torch.linspace(-0.1, 0.1, 12))
    groups = ("global_crops_1", "global_crops_2", "local_crops")
    views = [view for group in groups for view in batch["views"][group]]
    assert len(views) == 10
    always = torch.tensor(True)
    student = [method.student_head(method.student_encoder(view), always) / 0.1 for view in views]
    teacher = [
        (method.teacher_head(method.encoder(view), always) - method.center) / 0.04
        for view in views[:2]
    ]
    losses = [
        functional.cross_entropy(student[v], teacher[t].softmax(1))
        for t in range(2)
        for v in range(10)
        if v != t
    ]
    torch.testing.assert_close(
        method(batch)["loss"], torch.stack(losses).mean(), rtol=1e-4, atol=1e-4
    )


def test_the_centre_follows_the_mean_output_of_valid_samples() -> None:
    method, batch = build(center_momentum=0.75), make_batch("dino")
    batch["valid"][[0, 4]] = False
    views = torch.stack(
        [batch["views"][group][0] for group in ("global_crops_1", "global_crops_2")]
    )
    outputs = method.teacher_head(
        method.encoder(views[:, batch["valid"]].flatten(0, 1)), torch.tensor(True)
    )
    method(batch)
    assert not method.center.any()
    method.after_step(1, 10)
    torch.testing.assert_close(method.center, 0.25 * outputs.mean(0), rtol=1e-4, atol=1e-6)


def test_teacher_temperature_rises_along_its_warm_up() -> None:
    method = build(
        first_teacher_temperature=0.04, teacher_temperature=0.07, teacher_warmup_fraction=0.5
    )
    found = []
    for step in (0, 25, 50, 100):
        method.after_step(step, 100)
        found.append(method._teacher_temperature().item())
    assert found == pytest.approx([0.04, 0.055, 0.07, 0.07])


def test_the_last_layer_waits_and_then_learns_directions_only() -> None:
    method, batch = build(freeze_fraction=0.5), make_batch("dino")
    method(batch)["loss"].backward()
    assert not method.student_head.prototypes.grad.any()
    method.after_step(5, 10)
    method(batch)["loss"].backward()
    grad = method.student_head.prototypes.grad
    assert grad.any()
    assert (grad * method.student_head.prototypes).sum(1).abs().max() < 1e-5
    longer = build()
    with torch.no_grad():
        longer.student_head.prototypes.mul_(5)
    torch.testing.assert_close(longer(batch)["loss"], build()(batch)["loss"])


def test_the_teacher_ships_sees_large_crops_only_and_has_no_gradient() -> None:
    method, batch = build(), make_batch("dino")
    seen: list[int] = []
    method.encoder.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    method(batch)["loss"].backward()
    assert seen == [2 * NUM_SAMPLES]
    assert all(parameter.grad is None for parameter in method.encoder.parameters())
    with torch.no_grad():
        for parameter in method.student_encoder.parameters():
            parameter += 1
    before = method.encoder.vit.norm.bias.clone()
    method.after_step(0, 10)
    torch.testing.assert_close(method.encoder.vit.norm.bias, before + 0.004, rtol=1e-3, atol=1e-6)
