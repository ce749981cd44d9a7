"""What every registered method must do, on crops of real photographs; registering a method is
enough to be tested."""

import copy
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from augment.recipe import CropGroup, Views
from models.encoders.factory import build_encoder
from models.method import Batch, Method, total_loss
from models.registry import METHODS, build_method
from tests.small_methods import (
    ENCODERS,
    NUM_SAMPLES,
    build,
    fill_free_memory,
    make_batch,
    rows_of,
)


@pytest.fixture(scope="module", params=list(METHODS))
def name(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


def first_rows(batch: Batch, count: int) -> Batch:
    return rows_of(batch, slice(count))


def gradients(method: Method, batch: Batch) -> dict[str, Tensor | None]:
    method.zero_grad()
    total_loss(method(batch)).backward()
    return {
        key: parameter.grad
        for key, parameter in method.named_parameters()
        if parameter.requires_grad
    }


def test_loss_is_a_finite_float32_scalar_and_embedding_is_one_detached_row_a_sample(
    name: str,
) -> None:
    method, _ = build(name)
    out = method(make_batch(name))
    assert (
        out["loss"].shape == ()
        and out["loss"].dtype == torch.float32
        and torch.isfinite(out["loss"])
    )
    assert out["embedding"].shape == (NUM_SAMPLES, method.encoder.embed_dim)
    assert not out["embedding"].requires_grad
    trained = ("loss", "discriminator_loss", "embedding")
    scalars = {key: value for key, value in out.items() if key not in trained}
    assert all(value.shape == () and not value.requires_grad for value in scalars.values())


def test_loss_falls_on_real_images(name: str) -> None:
    method, _ = build(name)
    batch = make_batch(name)
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    losses = []
    for step in range(15):
        loss = method(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_step(step + 1, 15)
        losses.append(loss.item())
    assert all(np.isfinite(losses))
    before = losses[2]  # a queue holds noise at first, which is easily told from images
    assert np.mean(losses[-3:]) < before - 0.05 * abs(before), losses


def test_gradients_reach_every_trainable_parameter_and_no_other(name: str) -> None:
    method, _ = build(name)
    batch = make_batch(name)
    # as DDP wants from step one
    assert all(gradient is not None for gradient in gradients(method, batch).values())
    method.after_step(1, 2)  # past what waits at the beginning
    unreached = [
        key
        for key, gradient in gradients(method, batch).items()
        if gradient is None or not gradient.any()
    ]
    assert not unreached
    assert all(
        parameter.grad is None for parameter in method.parameters() if not parameter.requires_grad
    )


def test_state_dict_round_trip_keeps_the_loss(name: str) -> None:
    method, _ = build(name)
    other, _ = build(name)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    batch = make_batch(name)
    method(batch)
    method.after_step(1, 2)  # past what waits at the beginning
    assert other(batch)["loss"].item() != method(batch)["loss"].item()
    other.load_state_dict(method.state_dict())
    assert other(batch)["loss"].item() == method(batch)["loss"].item()


def train(method: Method, optimizer: torch.optim.Optimizer, steps: range, name: str) -> list[float]:
    losses = []
    for step in steps:
        optimizer.zero_grad()
        loss = total_loss(method(make_batch(name, epoch=step)))
        loss.backward()
        method.before_step(step, 4)
        optimizer.step()
        method.after_step(step + 1, 4)
        losses.append(loss.item())
    return losses


def test_a_resumed_run_goes_on_exactly(name: str) -> None:
    straight, _ = build(name)
    optimizer = torch.optim.SGD(straight.parameters(), lr=0.05)  # no state of its own
    train(straight, optimizer, range(2), name)
    resumed, _ = build(name, seed=1)
    resumed.load_state_dict(copy.deepcopy(straight.state_dict()))
    expected = train(straight, optimizer, range(2, 4), name)
    resumed.seed = straight.seed
    assert (
        train(resumed, torch.optim.SGD(resumed.parameters(), lr=0.05), range(2, 4), name)
        == expected
    )
    for key, value in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key


def test_same_seed_gives_the_same_loss_and_leaves_the_callers_random_state(name: str) -> None:
    batch = make_batch(name)
    before = torch.get_rng_state()
    first, _ = build(name)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(5)
    second, _ = build(name)
    assert first(batch)["loss"].item() == second(batch)["loss"].item()


def test_encoder_is_built_first_so_the_seed_alone_gives_the_untrained_encoder(name: str) -> None:
    method, encoder_config = build(name, seed=3)
    torch.manual_seed(3)
    untrained = build_encoder(encoder_config, METHODS[name].small_px)
    state = method.encoder.state_dict()
    assert state.keys() == untrained.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in untrained.state_dict().items())


def test_every_trainable_parameter_is_in_exactly_one_group(name: str) -> None:
    method, _ = build(name)
    grouped = [id(parameter) for group in method.param_groups() for parameter in group["params"]]
    trainable = [id(parameter) for parameter in method.parameters() if parameter.requires_grad]
    assert sorted(grouped) == sorted(trainable)
    roles = {group.get("optimizer", "main") for group in method.param_groups()}
    assert roles == ({"main", "discriminator"} if method.adversarial else {"main"})
    assert method.adversarial == ("discriminator_loss" in method(make_batch(name)))


def test_views_that_the_method_cannot_eat_are_refused_by_key(name: str) -> None:
    kind = METHODS[name]
    views = kind.default_views(kind.small_px)
    group, crop = next(iter(views.groups.items()))
    wrong = views.model_copy(
        update={"groups": {group: crop.model_copy(update={"count": crop.count + 5})}}
    )
    _, encoder_config = build(name)
    with pytest.raises(ValueError, match=rf"views\.groups\.{group}\.count"):
        build_method(kind.small, encoder_config, wrong, 0)


def test_it_eats_the_groups_of_its_own_recipe_and_no_other(name: str) -> None:
    kind = METHODS[name]
    views = kind.default_views(kind.small_px)
    assert set(views.groups) <= set(kind.view_groups)
    groups = {**views.groups, "global_crop": CropGroup()}
    more = views.model_copy(update={"groups": groups})
    _, encoder_config = build(name)
    with pytest.raises(ValueError, match=rf"unknown key views\.groups\.global_crop: .*{name}"):
        build_method(kind.small, encoder_config, more, 0)


def test_its_views_of_small_images_are_never_blurred_and_patches_of_8_px_fit(name: str) -> None:
    for size in (32, 64):
        if METHODS[name].views_kind is not Views:
            pytest.skip("no images")
        views = METHODS[name].default_views(size)
        assert isinstance(views, Views)
        assert all(group.blur is None for group in views.groups.values())
        assert all(views.group_size(group) % 8 == 0 for group in views.groups)


def test_its_views_survive_yaml(name: str) -> None:
    kind = METHODS[name].views_kind
    views = METHODS[name].default_views(kind.default_size)
    text = yaml.safe_dump(views.model_dump(mode="json"), sort_keys=False)
    again = kind.model_validate(yaml.safe_load(text))
    assert again == views and list(again.groups) == list(views.groups)


def test_what_it_shows_is_rgb_in_0_to_1_a_picture_a_sample(name: str) -> None:
    method, _ = build(name)
    for progress in (0, 1):
        method.after_step(progress, 2)
        for heading, images in method.show(make_batch(name)).items():
            assert 0 < len(heading) <= 18  # more is cut off above a picture in the report
            assert images.ndim == 4 and images.shape[:2] == (NUM_SAMPLES, 3)
            assert images.is_floating_point() and not images.requires_grad
            assert images.min() >= 0 and images.max() <= 1


def test_forward_leaves_the_batch_as_it_was(name: str) -> None:
    method, _ = build(name)
    batch = make_batch(name)
    before = copy.deepcopy(batch)
    method(batch)["loss"].backward()
    assert all(
        torch.equal(batch["views"][group], before["views"][group]) for group in batch["views"]
    )
    assert torch.equal(batch["sample_id"], before["sample_id"]) and torch.equal(
        batch["valid"], before["valid"]
    )


def test_invalid_samples_have_no_part_in_an_accumulating_loss(name: str) -> None:
    method, _ = build(name)
    if not method.accumulates:
        pytest.skip("the loss is no mean over samples")
    keep_batch_norm_still(method)  # it is the encoder's, and sees the whole micro-batch
    batch = make_batch(name)
    batch["valid"][4:] = False
    masked, alone = gradients(method, batch), gradients(method, first_rows(batch, 4))
    for key, gradient in masked.items():
        assert_equal_up_to_rounding(gradient, alone[key], key)


def assert_equal_up_to_rounding(found: Tensor, expected: Tensor | None, key: str) -> None:
    """Compare with the largest entry: kernels for more rows, or fewer threads, add up in another
    order, and a sample that had a part would move more than a ten-thousandth of it."""
    assert expected is not None, key
    largest = expected.abs().max().item()
    torch.testing.assert_close(
        found, expected, rtol=0, atol=1e-6 + 1e-4 * largest, msg=lambda text: f"{key}: {text}"
    )


def keep_batch_norm_still(method: Method) -> None:
    """Let batch norm use its running statistics, which mix no samples."""
    for part in method.modules():
        if isinstance(part, _BatchNorm):
            part.eval()


def step_without_batch_norm(name: str, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradients of a step, and the state after it, with batch norm that mixes no samples."""
    method, _ = build(name)
    keep_batch_norm_still(method)
    method.after_step(1, 2)
    found = {
        key: gradient for key, gradient in gradients(method, batch).items() if gradient is not None
    }
    method.after_step(1, 2)
    return found, method.state_dict()


def test_what_invalid_samples_show_has_no_part_in_gradients_or_state_but_through_batch_norm(
    name: str,
) -> None:
    batch, other = make_batch(name), make_batch(name)
    invalid = torch.tensor([0, 1, 7])
    for kind in (batch, other):
        kind["valid"][invalid] = False
    for group, views in other["views"].items():
        others = make_batch(name, epoch=9)["views"][group][:, [5, 2, 9]].flip(-1)
        views[:, invalid] = 3 * others if others.is_floating_point() else others
    for found, expected in zip(
        step_without_batch_norm(name, other), step_without_batch_norm(name, batch), strict=True
    ):
        assert found.keys() == expected.keys()
        for key, value in found.items():
            torch.testing.assert_close(
                value, expected[key], rtol=1e-4, atol=1e-6, msg=lambda m, k=key: f"{k}: {m}"
            )


@pytest.mark.parametrize("valid", [[True, True], [True, False]])
def test_a_batch_of_two_and_a_single_valid_sample_are_finite(name: str, valid: list[bool]) -> None:
    method, _ = build(name)
    batch = first_rows(make_batch(name), 2)
    batch["valid"][:] = torch.tensor(valid)
    method.after_step(1, 2)
    assert all(
        gradient.isfinite().all()
        for gradient in gradients(method, batch).values()
        if gradient is not None
    )
    out = method(batch)
    method.after_step(2, 2)
    assert all(value.isfinite().all() for value in out.values())
    assert all(value.isfinite().all() for value in method.state_dict().values())


def halved(views: Tensor) -> Tensor:
    """Make views half as precise, where they are no numbers of tokens."""
    return views.bfloat16() if views.is_floating_point() else views


def test_autocast_to_bfloat16_keeps_a_float32_loss_and_finite_gradients(name: str) -> None:
    method, _ = build(name)
    batch = make_batch(name)
    exact = method(batch)["loss"].item()
    # as the generator does
    batch["views"] = {group: halved(views) for group, views in batch["views"].items()}
    fill_free_memory()
    with torch.autocast("cpu", torch.bfloat16):
        loss = method(batch)["loss"]
    fill_free_memory()
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact, rel=0.05, abs=0.05)
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)


# asks once a step whether an epoch has ended; trades targets on the CPU
WAITING = ("deepcluster", "nat")


def on_cuda(batch: Batch) -> Batch:
    moved = {key: batch[key].cuda() for key in ("sample_id", "row", "epoch", "valid")}
    views = {group: views.cuda() for group, views in batch["views"].items()}
    there = Batch(views=views, **moved)
    if "targets" in batch:
        there["targets"] = {name: values.cuda() for name, values in batch["targets"].items()}
    return there


@pytest.mark.gpu
def test_a_step_on_cuda_equals_one_on_the_cpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    method, _ = build(name)
    expected, batch = method(make_batch(name)), make_batch(name)
    norms = {key: grad.norm() for key, grad in gradients(method, batch).items() if grad is not None}
    method, _ = build(name)
    method.cuda().to(memory_format=torch.channels_last)
    out = method(on_cuda(batch))
    torch.testing.assert_close(out["loss"].cpu(), expected["loss"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(out["embedding"].cpu(), expected["embedding"], rtol=1e-2, atol=1e-3)
    out["loss"].backward()
    found = {key: p.grad.norm().cpu() for key, p in method.named_parameters() if p.grad is not None}
    assert found.keys() == norms.keys()
    scale = max(norms.values())
    assert max(abs(found[key] - norms[key]) for key in norms) <= 0.02 * scale


@pytest.mark.gpu
def test_steps_on_cuda_in_bfloat16_never_wait_and_go_on_after_a_round_trip(
    name: str, never_waits: AbstractContextManager[None]
) -> None:
    method, _ = build(name)
    method.cuda().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-3)
    batch = on_cuda(make_batch(name))
    batch["views"] = {group: halved(views) for group, views in batch["views"].items()}

    def step(number: int) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            loss: Tensor = method(batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(number, 20)
        return loss.detach()

    losses = [step(1)]  # cuDNN and cuBLAS set themselves up
    with nullcontext() if name in WAITING else never_waits:
        losses += [step(2), step(3)]
    saved = {key: value.cpu() for key, value in method.state_dict().items()}
    method.load_state_dict(saved)
    losses.append(step(4))
    assert torch.stack(losses).isfinite().all()


def test_it_takes_clips_where_it_says_so_and_is_refused_an_encoder_of_them_elsewhere(
    name: str,
) -> None:
    kind = METHODS[name]
    views = kind.default_views(kind.small_px)
    encoder = next(config for config in ENCODERS if config.time == "tubelets")
    if kind.media == "clip":
        with pytest.raises(ValueError, match="sees still images"):
            build_method(kind.small, ENCODERS[1], views, 0)
        return
    if not kind.takes_clips:
        with pytest.raises(ValueError, match="sees clips"):
            build_method(kind.small, encoder, views, 0)
        return
    method = build_method(kind.small, encoder, views, 0)
    batch = make_batch(name, media="clip")
    out = method(batch)
    assert torch.isfinite(out["loss"]) and out["embedding"].shape[0] == NUM_SAMPLES
    assert any(
        gradient is not None and gradient.any() for gradient in gradients(method, batch).values()
    )


def test_a_batch_without_a_valid_sample_gives_zero_loss_and_no_gradient(name: str) -> None:
    method, _ = build(name)
    batch = make_batch(name)
    batch["valid"][:] = False
    assert method(batch)["loss"].item() == 0.0
    assert all(
        gradient is None or not gradient.any() for gradient in gradients(method, batch).values()
    )


def test_unknown_method_is_refused_with_the_known_names(name: str) -> None:
    config = METHODS[name].Config.model_construct(name="nope")
    with pytest.raises(ValueError, match=name):
        build_method(config, ENCODERS[0], METHODS[name].default_views(METHODS[name].small_px), 0)
