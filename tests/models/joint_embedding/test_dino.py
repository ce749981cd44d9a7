"""DINO: centring, sharpening, the last layer that waits, and the teacher that ships."""

import math

import pytest
import torch
from torch.nn import functional

from models import health
from models.joint_embedding.dino import DINO, DINOConfig
from models.joint_embedding.self_distillation import signs_of_life
from models.optim import OptimConfig
from models.registry import build_method
from models.steps.optimizers import Optimizers
from tests.small_methods import ENCODERS, NUM_SAMPLES, SIZE, make_batch


def build(**settings: float | str) -> DINO:
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
    student = [method.student_head(method.student_encoder(view)) / 0.1 for view in views]
    teacher = [
        (method.teacher_head(method.encoder(view)) - method.center) / 0.04 for view in views[:2]
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
    outputs = method.teacher_head(method.encoder(views[:, batch["valid"]].flatten(0, 1)))
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


@pytest.mark.slow
def test_prototypes_wait_and_then_take_the_steps_of_an_optimiser_that_never_saw_them_wait() -> None:
    method, batch = build(freeze_fraction=0.5), make_batch("dino")
    prototypes = method.student_head.prototypes
    config = OptimConfig(name="adamw", lr=0.1, weight_decay=0.1, warmup_steps=0)
    optimizers = Optimizers(method, method.param_groups(), config, global_batch_size=256)
    start = prototypes.detach().clone()
    for step in range(6):
        optimizers.set_schedule(step, 10)
        method(batch)["loss"].backward()
        assert prototypes.grad is not None  # as data-parallel training waits for it
        method.before_step(step, 10)
        optimizers.step()
        method.after_step(step + 1, 10)
        if step < 5:
            assert torch.equal(prototypes, start)  # nor does weight decay move them
            assert prototypes not in optimizers.main.state
    assert optimizers.main.state[prototypes]["step"] == 1
    lr = optimizers.main.param_groups[0]["lr"]
    # Adam's first step is a rate long in every coordinate that has a gradient
    step = (prototypes - start * (1 - 0.1 * lr)).abs()
    assert step.max() <= 1.001 * lr


def test_only_the_direction_of_prototypes_counts_and_the_shorter_turn_faster() -> None:
    batch = make_batch("dino")
    method, shorter = build(), build(prototype_std=0.036)
    losses = [each(batch)["loss"] for each in (method, shorter)]
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    long, short = (each.student_head.prototypes for each in (method, shorter))
    assert (long.grad * long).sum(1).abs().max() < 1e-5
    torch.testing.assert_close(short.grad, long.grad / 0.036, rtol=1e-3, atol=1e-5)


def test_targets_collapse_to_one_prototype_without_centring_and_are_uniform_unsharpened() -> None:
    favoured = torch.zeros(12)
    favoured[3] = 0.8  # of cosines; all outputs favour one prototype
    outputs = 0.1 * torch.randn(2, 40, 12, generator=torch.Generator().manual_seed(0)) + favoured
    valid = torch.ones(40, dtype=torch.bool)

    def entropies(**settings: float | str) -> tuple[float, float]:
        method = build(center_momentum=0.0, **settings)
        for step in range(2):  # the mean of the first step centres the second
            targets = method.aim(outputs, torch.ones(2, 40))
            method.after_step(step + 1, 10)
        told = signs_of_life(targets, torch.zeros(40), valid)
        return told["target_entropy"].item(), told["prototype_entropy"].item()

    uniform = math.log(12)
    for centring in ("mean", "sinkhorn"):
        of_each, of_all = entropies(centring=centring)
        assert of_each < 0.7 * uniform and of_all > 0.9 * uniform
    of_each, of_all = entropies(centring="none")
    assert of_each < 0.05 and of_all < 0.05
    of_each, of_all = entropies(teacher_temperature=5.0, teacher_warmup_fraction=0.0)
    assert of_each > 0.999 * uniform and of_all > 0.999 * uniform


def test_cross_entropy_is_entropy_and_divergence_which_a_collapse_leaves_none_of() -> None:
    method, batch = build(), make_batch("dino")
    out = method(batch)
    torch.testing.assert_close(out["target_entropy"] + out["divergence"], out["loss"].detach())
    assert out["divergence"] > 0.01
    with torch.no_grad():
        for head in (method.student_head, method.teacher_head):
            head.layers[-1].weight.zero_()
            head.layers[-1].bias.copy_(torch.linspace(0, 1, 16))
    method.settings = method.settings.model_copy(update={"student_temperature": 0.04})
    assert method(batch)["divergence"].abs() < 1e-5


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


def test_batch_norm_in_the_heads_keeps_a_common_part_of_embeddings_out_of_the_outputs() -> None:
    common = torch.randn(1, 24, generator=torch.Generator().manual_seed(0))
    embedding = common + 0.1 * torch.randn(64, 24, generator=torch.Generator().manual_seed(1))
    spreads = [
        health.spread(build(head_norm=norm).student_head.bottleneck(embedding)).item()
        for norm in (False, True)
    ]
    assert spreads[0] < 0.3 and spreads[1] > 0.7


@pytest.mark.parametrize("centring", ["mean", "sinkhorn", "none"])
def test_health_sees_what_the_targets_of_images_would_be(centring: str) -> None:
    method, batch = build(centring=centring), make_batch("dino")
    method(batch)
    method.after_step(1, 10)
    embedding = method.encoder(batch["views"]["global_crops_1"][0])
    outputs = method.teacher_head(embedding)
    centre = {"mean": getattr(method, "center", 0.0), "sinkhorn": outputs.mean(0), "none": 0.0}
    expected = ((outputs - centre[centring]) / 0.04).softmax(-1)
    torch.testing.assert_close(method.project(embedding), expected)
