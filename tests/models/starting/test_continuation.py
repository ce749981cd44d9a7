"""Training on from weights: slower towards the pixels, frozen first, pulled back."""

import pytest
import torch
from torch import Tensor, nn

from models.contrastive.simclr import SimCLR
from models.encoders.factory import EncoderConfig
from models.method import Method
from models.optim import OptimConfig, param_groups
from models.registry import METHODS, build_method
from models.starting.continuation import Anchor, StartConfig, gentle_groups
from models.steps.optimizers import Optimizers
from tests.small_methods import SIZE, build

PLAIN = OptimConfig(name="sgd", lr=0.1, lr_scaling="none", warmup_fraction=0, weight_decay=0.01)


def simclr(name: str = "resnet18_small") -> Method:
    views = SimCLR.default_views(SIZE)
    return build_method(SimCLR.small, EncoderConfig(name=name, width=8), views, seed=0)


def optimizers(method: Method, start: StartConfig, config: OptimConfig = PLAIN) -> Optimizers:
    return Optimizers(method, gentle_groups(method, start), config, 256)


def with_gradients(method: Method) -> Method:
    for parameter in method.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    return method


def moved(method: Method, before: dict[str, Tensor]) -> dict[str, bool]:
    return {name: not torch.equal(p, before[name]) for name, p in method.named_parameters()}


def weights(method: Method) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in method.named_parameters()}


def test_without_settings_the_groups_are_the_methods_own() -> None:
    method = simclr()
    groups = gentle_groups(method, StartConfig())
    assert [group["name"] for group in groups] == [g["name"] for g in param_groups(method)]


@pytest.mark.parametrize("name", list(METHODS))
def test_every_parameter_of_every_method_is_in_one_group(name: str) -> None:
    method, _ = build(name)
    decay = 1.0 if name == "skipgram" else 0.5  # a table of vectors has no layers
    groups = gentle_groups(method, StartConfig(layer_decay=decay, frozen_steps=3, pull=0.1))
    grouped = [parameter for group in groups for parameter in group["params"]]
    own = [parameter for group in method.param_groups() for parameter in group["params"]]
    assert len(grouped) == len(set(grouped)) and set(grouped) == set(own)
    assert len({group["name"] for group in groups}) == len(groups)
    scaled = {p for group in groups if group.get("pulled") for p in group["params"]}
    trained = {p for p in method.trained_encoder.parameters() if p.requires_grad}
    assert scaled == trained


def test_an_encoder_without_layers_takes_no_decay_over_them() -> None:
    with pytest.raises(ValueError, match=r"start\.layer_decay has no layers to tell apart"):
        gentle_groups(build("skipgram")[0], StartConfig(layer_decay=0.5))


def test_a_layer_learns_at_a_share_of_the_rate_above_it() -> None:
    method = simclr("vit_tiny_small")
    parts = optimizers(method, StartConfig(layer_decay=0.5))
    assert parts.set_schedule(0, 10) == pytest.approx(0.1)
    rates = {
        parameter: group["lr"] for group in parts.main.param_groups for parameter in group["params"]
    }
    vit = method.encoder.get_submodule("vit")
    head = next(method.get_submodule("projection_head").parameters())
    last = rates[vit.get_parameter("blocks.11.mlp.fc2.weight")]
    assert rates[head] == pytest.approx(0.1)
    assert rates[vit.get_parameter("blocks.10.mlp.fc2.weight")] == pytest.approx(0.5 * last)
    assert rates[vit.get_parameter("patch_embed.proj.weight")] == pytest.approx(0.5**12 * last)
    assert last <= 0.5 * rates[head]


@pytest.mark.parametrize("name", ["sgd", "lars", "adamw"])
def test_the_encoder_waits_and_then_warms_up_on_its_own(name: str) -> None:
    method = simclr()
    start = StartConfig(frozen_steps=2)
    config = PLAIN.model_copy(update={"name": name, "warmup_steps": 2})
    parts = optimizers(method, start, config)
    anchor = Anchor(method, start)
    rates = []
    for step in range(5):
        before = weights(method)
        parts.set_schedule(step, 100)
        anchor.hold(step, with_gradients_of(method, parts))
        parts.step()
        changed = moved(method, before)
        assert changed["projection_head.0.weight"]
        assert changed["encoder.stem.0.weight"] == (step >= 2)
        encoder = next(g for g in parts.main.param_groups if g.get("thaws_at"))
        rates.append(encoder["lr"])
    assert rates[:4] == pytest.approx([0, 0, 0.05, 0.1], rel=1e-2)


def with_gradients_of(method: Method, parts: Optimizers) -> torch.optim.Optimizer:
    with_gradients(method)
    return parts.main


@pytest.mark.parametrize("name", ["sgd", "lars", "adamw"])
def test_the_pull_alone_leads_back_to_the_start(name: str) -> None:
    method = simclr()
    start = StartConfig(pull=5.0)
    config = PLAIN.model_copy(
        update={"name": name, "momentum": 0.0, "trust_coefficient": 0.5, "lr": 0.1}
    )
    parts = optimizers(method, start, config)
    anchor = Anchor(method, start)
    encoder = method.encoder
    began = [p.detach().clone() for p in encoder.parameters()]
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    far = distance(encoder, began)
    for step in range(30):
        parts.set_schedule(step, 1000)
        for parameter in method.parameters():
            parameter.grad = torch.zeros_like(parameter)
        anchor.hold(step, parts.main)
        parts.step()
    assert distance(encoder, began) < 0.5 * far


def distance(encoder: nn.Module, began: list[Tensor]) -> float:
    pairs = zip(encoder.parameters(), began, strict=True)
    return float(sum((p.detach() - q).square().sum() for p, q in pairs)) ** 0.5


def test_the_pull_is_the_gradient_of_half_the_squared_distance() -> None:
    method = with_gradients(simclr())
    start = StartConfig(pull=0.3)
    parts = optimizers(method, start)
    anchor = Anchor(method, start)
    weight = method.encoder.get_parameter("stem.0.weight")
    began = weight.detach().clone()
    with torch.no_grad():
        weight.add_(2.0)
    penalty = 0.5 * 0.3 * (weight - began).square().sum()
    (expected,) = torch.autograd.grad(penalty, weight)
    parts.set_schedule(0, 10)
    anchor.hold(0, parts.main)
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, 1 + expected)
    head = method.get_submodule("projection_head").get_parameter("0.weight")
    assert head.grad is not None and torch.equal(head.grad, torch.ones_like(head))


def test_pulled_weights_do_not_decay_as_well() -> None:
    method = simclr()
    parts = optimizers(method, StartConfig(pull=0.3))
    parts.set_schedule(0, 10)
    decays = {group["name"]: group["weight_decay"] for group in parts.main.param_groups}
    assert decays == {"decay/layer0": 0, "decay": 0.01, "no_decay/layer0": 0, "no_decay": 0}
