"""What a checkpoint holds, and one step of it: a method with a discriminator has two optimisers."""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray.train
import torch
from torch import Tensor

from jobs.setup.command_line import parse
from jobs.setup.failures import InputError
from jobs.training import checkpoints
from jobs.training.run_config import PretrainConfig, complete_pretrain, load_pretrain
from jobs.training.state import TrainState
from models.method import total_loss
from pipelines.stream.ledger import Ledger
from tests.adversarial import NAME, registered
from tests.small_methods import SIZE, make_batch

WORDS = [
    *(f"method.name={NAME}", "source.uri=/data", "out=/out", "num_steps=10"),
    *("encoder.width=8", f"views.size={SIZE}", "global_batch_size=12"),
    *("optim.name=sgd", "optim.lr=0.5", "optim.lr_scaling=none", "optim.warmup_fraction=0"),
    *("optim.discriminator.name=sgd", "optim.discriminator.lr=0.01"),
]


@pytest.fixture(autouse=True)
def adversarial() -> Iterator[None]:
    with registered():
        yield


def config(*words: str) -> PretrainConfig:
    return parse(complete_pretrain, [*WORDS, *words])


def begin(config: PretrainConfig) -> TrainState:
    return TrainState(config, torch.device("cpu"), Ledger(0, ()))


def take_step(state: TrainState) -> Tensor:
    state.begin_step(10)
    state.backward(make_batch(NAME), synchronise=True)
    return state.update(10)


def changes(state: TrainState, before: dict[str, Tensor]) -> dict[str, float]:
    """How far each part's parameters moved, in all."""
    moved = dict.fromkeys(("encoder", "generator", "discriminator"), 0.0)
    for name, value in state.method.named_parameters():
        moved[name.split(".")[0]] += float((value - before[name]).detach().square().sum())
    return {name: value**0.5 for name, value in moved.items()}


def moved_by_a_step(*words: str) -> dict[str, float]:
    state = begin(config(*words))
    before = {name: value.detach().clone() for name, value in state.method.named_parameters()}
    take_step(state)
    return changes(state, before)


def test_each_optimiser_has_its_own_learning_rate() -> None:
    both, slower = moved_by_a_step(), moved_by_a_step("optim.discriminator.lr=0.005")
    assert slower["discriminator"] == pytest.approx(both["discriminator"] / 2, rel=1e-3)
    assert slower["encoder"] == both["encoder"] and slower["generator"] == both["generator"]


def test_each_optimiser_clips_its_own_gradient() -> None:
    clipped = moved_by_a_step("optim.clip_grad_norm=0.001")
    assert clipped["encoder"] < 0.0006  # 0.5 * 0.001
    assert clipped["discriminator"] == moved_by_a_step()["discriminator"]
    clipped = moved_by_a_step("optim.discriminator.clip_grad_norm=0.001")
    assert clipped["discriminator"] == pytest.approx(1e-5, rel=1e-2)  # 0.01 * 0.001


def test_the_norm_that_is_returned_is_of_all_gradients() -> None:
    state = begin(config())
    state.begin_step(10)
    state.backward(make_batch(NAME), synchronise=True)
    gradients = [value.grad for value in state.method.parameters() if value.grad is not None]
    expected = torch.cat([gradient.double().flatten() for gradient in gradients]).norm()
    assert float(state.update(10)) == pytest.approx(float(expected), rel=1e-4)


def test_a_resumed_run_goes_on_exactly_with_both_optimisers(tmp_path: Path) -> None:
    wanted = config("optim.discriminator.name=adamw")
    straight = begin(wanted)
    take_step(straight)
    straight.samples_seen = 12
    straight.bad_samples = {"empty": 2}
    checkpoints.write(str(tmp_path), copy.deepcopy(straight.state_dict()), straight.ledger())
    resumed = begin(wanted)
    resumed.restore(ray.train.Checkpoint.from_directory(tmp_path))
    assert (resumed.step, resumed.samples_seen, resumed.bad_samples) == (1, 12, {"empty": 2})
    take_step(straight)
    take_step(resumed)
    for name, value in straight.method.state_dict().items():
        assert torch.equal(resumed.method.state_dict()[name], value), name


def test_a_method_without_a_discriminator_keeps_one_optimiser_under_its_old_name() -> None:
    words = [word for word in WORDS if "discriminator" not in word and NAME not in word]
    state = begin(parse(complete_pretrain, words))
    kept = {"step", "method", "optimizer", "samples_seen", "bad_samples"}
    assert set(state.state_dict()) == kept
    with pytest.raises(InputError, match=r"unknown key optim\.discriminator"):
        parse(complete_pretrain, [*words, "optim.discriminator.lr=0.1"])


def test_a_config_with_two_optimisers_survives_the_way_to_a_worker() -> None:
    wanted = config("optim.discriminator.momentum=0.5")
    assert load_pretrain(wanted.model_dump(mode="json")) == wanted
    assert wanted.fingerprint() != config().fingerprint()


def test_a_resumed_run_leaves_out_the_same_branches(tmp_path: Path) -> None:
    words = ["method.name=dino", "method.num_prototypes=16", "method.hidden_dim=32"]
    words += ["encoder.name=vit_tiny_small", "encoder.width=8", "encoder.drop_path=0.5"]
    words += ["source.uri=/data", "out=/out", "num_steps=10", f"views.size={SIZE}"]
    wanted = parse(complete_pretrain, [*words, "optim.name=sgd", "global_batch_size=12"])

    def loss_of_a_step(state: TrainState) -> float:
        state.begin_step(10)
        out = state.backward(make_batch("dino"), synchronise=True)
        state.update(10)
        return out["loss"].item()

    straight = begin(wanted)
    torch.manual_seed(1)
    loss_of_a_step(straight)
    checkpoints.write(str(tmp_path), copy.deepcopy(straight.state_dict()), straight.ledger())
    resumed = begin(wanted)
    resumed.restore(ray.train.Checkpoint.from_directory(tmp_path))
    expected = [loss_of_a_step(straight) for _ in range(2)]
    assert [loss_of_a_step(resumed) for _ in range(2)] == expected
    again = begin(wanted)
    again.restore(ray.train.Checkpoint.from_directory(tmp_path))
    again.step = 2  # another step's draws
    assert loss_of_a_step(again) != expected[0]


def trained_in(precision: str) -> TrainState:
    state = begin(config(f"precision={precision}", "optim.lr=0.001"))
    take_step(state)
    return state


def test_float16_trains_as_float32_does_but_for_rounding() -> None:
    def moved(precision: str) -> dict[str, Tensor]:
        state = begin(config(f"precision={precision}", "optim.lr=0.001"))
        if precision == "float16":
            saved = state.state_dict()
            saved["scaler"]["scale"] = 256.0  # at which nothing overflows
            state.optimizers.load_state_dict(saved)
        before = {name: value.detach().clone() for name, value in state.method.named_parameters()}
        take_step(state)
        return {name: value - before[name] for name, value in state.method.named_parameters()}

    whole, half, coarse = (moved(each) for each in ("float32", "float16", "bfloat16"))
    for part in ("encoder", "generator", "discriminator"):
        far, farther = (
            sum((found[name] - whole[name]).norm() for name in whole if name.startswith(part))
            for found in (half, coarse)
        )
        assert far < 0.8 * farther, part  # three more bits of mantissa


def test_a_gradient_that_overflows_in_float16_is_left_out_and_the_scale_falls() -> None:
    state = trained_in("float16")
    saved = state.state_dict()
    scale = saved["scaler"]["scale"]
    saved["scaler"]["scale"] = 1e38
    state.optimizers.load_state_dict(saved)
    before = {name: value.clone() for name, value in state.method.named_parameters()}
    assert take_step(state) == 0  # no step, but no failure of the run either
    assert all(value.equal(before[name]) for name, value in state.method.named_parameters())
    assert state.state_dict()["scaler"]["scale"] == pytest.approx(5e37)
    saved["scaler"]["scale"] = scale
    state.optimizers.load_state_dict(saved)
    assert 0 < take_step(state) < float("inf")


def test_a_loss_that_is_not_finite_is_no_matter_of_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    state = trained_in("float16")
    saved = state.state_dict()
    saved["scaler"]["scale"] = 0.5
    state.optimizers.load_state_dict(saved)
    monkeypatch.setattr("jobs.training.state.total_loss", lambda out: total_loss(out) * torch.nan)
    assert not take_step(state).isfinite()
