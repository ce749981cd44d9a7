import copy
import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from models.optim import (
    OptimConfig,
    adversarial_groups,
    build_optimizer,
    cooldown_start,
    lr_at,
    param_groups,
    peak_lr,
    set_schedule,
    weight_decay_at,
)
from models.steps.optimizers import Optimizers


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.ones(1, 1, 4))
        self.pos_embed = nn.Parameter(torch.ones(1, 3, 4))
        self.mask_token = nn.Parameter(torch.ones(1, 1, 4))
        self.projection = nn.Parameter(torch.ones(4, 4))
        self.bias_table = nn.Parameter(torch.ones(4, 4))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))


def step_once(module: nn.Module, optimizer: torch.optim.Optimizer, seed: int = 0) -> None:
    optimizer.zero_grad()
    module(torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(seed))).pow(
        2
    ).sum().backward()
    optimizer.step()


@pytest.mark.parametrize(("scaling", "expected"), [("linear", 1.6), ("sqrt", 0.4), ("none", 0.1)])
def test_peak_learning_rate_grows_with_the_global_batch(scaling: str, expected: float) -> None:
    config = OptimConfig(lr=0.1, lr_scaling=scaling)
    assert peak_lr(config, 4096) == pytest.approx(expected)
    assert peak_lr(config, 256) == pytest.approx(0.1)


def test_learning_rate_rises_linearly_then_falls_by_half_a_cosine() -> None:
    config = OptimConfig(warmup_steps=10, min_lr_fraction=0.1)
    rates = [lr_at(step, 110, 2.0, config) for step in range(111)]
    assert rates[:10] == pytest.approx([0.2 * n for n in range(1, 11)])
    assert rates[10] == pytest.approx(2.0)
    assert rates[60] == pytest.approx(1.1)  # half way down, between 2.0 and 0.2
    assert rates[35] == pytest.approx(0.2 + 1.8 * (1 + math.cos(math.pi / 4)) / 2)
    assert rates[110] == pytest.approx(0.2)
    assert all(later < earlier for earlier, later in pairwise(rates[10:]))


def test_an_infinite_schedule_is_constant_until_its_cooldown() -> None:
    config = OptimConfig(schedule="infinite", cooldown_fraction=0.2, warmup_steps=10)
    rates = [lr_at(step, 100, 2.0, config) for step in range(101)]
    assert cooldown_start(100, config) == 80
    assert rates[9:81] == [2.0] * 72
    assert rates[85] == pytest.approx(2.0 * (1 - math.sqrt(5 / 20)))
    assert rates[100] == 0
    assert all(later < earlier for earlier, later in pairwise(rates[80:]))
    longer = [lr_at(step, 1000, 2.0, config) for step in range(80)]
    assert longer == rates[:80]  # whoever goes on from before it has seen nothing of its length


def test_warmup_steps_overrule_the_fraction() -> None:
    assert lr_at(0, 100, 1.0, OptimConfig(warmup_fraction=0.2)) == pytest.approx(1 / 20)
    assert lr_at(0, 100, 1.0, OptimConfig(warmup_fraction=0.2, warmup_steps=50)) == pytest.approx(
        1 / 50
    )
    assert lr_at(0, 100, 1.0, OptimConfig(warmup_fraction=0.2, warmup_steps=0)) == 1.0


def test_a_run_of_one_step_has_a_learning_rate() -> None:
    assert lr_at(0, 1, 1.0, OptimConfig(warmup_fraction=1.0)) == 1.0
    assert lr_at(0, 1, 1.0, OptimConfig(warmup_fraction=0.0)) == 1.0


def test_biases_norms_and_tokens_do_not_decay() -> None:
    module = nn.ModuleDict({"network": network(), "norm": nn.LayerNorm([2, 3]), "tokens": Tokens()})
    names = {parameter: name for name, parameter in module.named_parameters()}
    groups = {
        group["name"]: [names[parameter] for parameter in group["params"]]
        for group in param_groups(module)
    }
    assert groups["decay"] == ["network.0.weight", "network.3.weight", "tokens.projection"]
    assert sorted(groups["decay"] + groups["no_decay"]) == sorted(names.values())


def test_frozen_parameters_are_left_out_and_shared_ones_listed_once() -> None:
    layer = nn.Linear(3, 3)
    frozen = nn.Linear(3, 3).requires_grad_(False)
    groups = param_groups(nn.Sequential(layer, frozen, layer))
    assert [(group["name"], len(group["params"])) for group in groups] == [
        ("decay", 1),
        ("no_decay", 1),
    ]


def test_lars_adapts_weights_and_only_weights() -> None:
    weight, bias = nn.Parameter(torch.full((2, 2), 3.0)), nn.Parameter(torch.full((2,), 3.0))
    groups = [
        {"name": "decay", "params": [weight], "decay": True},
        {"name": "no_decay", "params": [bias], "decay": False},
    ]
    config = OptimConfig(name="lars", weight_decay=0.5, trust_coefficient=0.01)
    optimizer = build_optimizer(groups, config, lr=0.1)
    weight.grad, bias.grad = torch.full((2, 2), 4.0), torch.full((2,), 4.0)
    optimizer.step()
    # arXiv:1708.03888, eq. 6: |w| = 6, |g| = 8, and the local rate multiplies g + decay * w.
    local_rate = 0.01 * 6 / (8 + 0.5 * 6)
    torch.testing.assert_close(
        weight.data, torch.full((2, 2), 3.0 - 0.1 * local_rate * (4 + 0.5 * 3))
    )
    torch.testing.assert_close(bias.data, torch.full((2,), 3.0 - 0.1 * 4))


def test_lars_adapts_without_weight_decay_too() -> None:
    weight = nn.Parameter(torch.full((2, 2), 3.0))
    groups = [{"name": "decay", "params": [weight], "decay": True}]
    optimizer = build_optimizer(
        groups, OptimConfig(name="lars", weight_decay=0.0, trust_coefficient=0.01), lr=0.1
    )
    weight.grad = torch.full((2, 2), 4.0)
    optimizer.step()
    torch.testing.assert_close(weight.data, torch.full((2, 2), 3.0 - 0.1 * (0.01 * 6 / 8) * 4))


@pytest.mark.parametrize("name", ["sgd", "lars", "adamw"])
def test_only_the_decay_group_has_weight_decay(name: str) -> None:
    optimizer = build_optimizer(
        param_groups(network()), OptimConfig(name=name, weight_decay=0.3), lr=0.1
    )
    decays = {
        group["name"]: (group["weight_decay"], group["lr"]) for group in optimizer.param_groups
    }
    assert decays == {"decay": (0.3, 0.1), "no_decay": (0.0, 0.1)}


@pytest.mark.parametrize("name", ["sgd", "lars", "adamw"])
def test_an_optimiser_goes_on_from_its_state_dict_to_the_bit(name: str) -> None:
    config = OptimConfig(name=name, weight_decay=0.01)
    module = network()
    optimizer = build_optimizer(param_groups(module), config, lr=0.1)
    step_once(module, optimizer, seed=0)
    resumed = copy.deepcopy(module)
    restored = build_optimizer(param_groups(resumed), config, lr=0.7)
    # a checkpoint does not share its tensors
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert [group["name"] for group in restored.param_groups] == ["decay", "no_decay"]
    step_once(module, optimizer, seed=1)
    step_once(resumed, restored, seed=1)
    assert all(
        torch.equal(a, b) for a, b in zip(module.parameters(), resumed.parameters(), strict=True)
    )


def test_weight_decay_goes_to_its_final_value_along_half_a_cosine() -> None:
    config = OptimConfig(weight_decay=0.04, final_weight_decay=0.4)
    decays = [weight_decay_at(step, 100, config) for step in (0, 50, 100)]
    assert decays == pytest.approx([0.04, 0.22, 0.4])
    assert weight_decay_at(70, 100, OptimConfig(weight_decay=0.04)) == 0.04


def test_schedule_leaves_a_fixed_rate_and_groups_without_decay_alone() -> None:
    groups = param_groups(network())
    head = param_groups(nn.Linear(2, 2))
    for group in head:
        group["name"], group["fixed_lr"] = f"head_{group['name']}", True
    config = OptimConfig(name="sgd", weight_decay=0.1, final_weight_decay=0.3, warmup_fraction=0)
    optimizer = build_optimizer(groups + head, config, lr=2.0)
    assert set_schedule(optimizer, config, step=50, num_steps=100, peak=2.0) == pytest.approx(1.0)
    found = {
        group["name"]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups
    }
    expected = {
        "decay": (1.0, 0.2),
        "no_decay": (1.0, 0.0),
        "head_decay": (2.0, 0.2),
        "head_no_decay": (2.0, 0.0),
    }
    assert {name: pytest.approx(value) for name, value in expected.items()} == found


@pytest.mark.parametrize("name", ["sgd", "lars", "adamw"])
def test_biases_and_norms_may_learn_more_slowly_in_every_optimiser(name: str) -> None:
    groups = param_groups(network())
    groups[0]["lr_scale"] = 0.5
    groups[1]["lr_scale"] = 0.5
    config = OptimConfig(name=name, no_decay_lr_scale=0.024, warmup_fraction=0)
    optimizer = build_optimizer(groups, config, lr=2.0)
    set_schedule(optimizer, config, step=0, num_steps=100, peak=2.0)
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates == pytest.approx({"decay": 1.0, "no_decay": 0.024})


def test_groups_without_parameters_or_with_one_name_twice_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        build_optimizer(param_groups(nn.ReLU()), OptimConfig(), lr=0.1)
    with pytest.raises(ValueError, match="names of their own"):
        build_optimizer(param_groups(nn.Linear(2, 2)) * 2, OptimConfig(), lr=0.1)


@pytest.mark.parametrize("clip_by", ["all", "parameter"])
def test_gradients_are_clipped_together_or_each_by_itself(clip_by: str) -> None:
    module = nn.Linear(2, 3)
    module.weight.grad = torch.full((3, 2), 2.0)  # norm sqrt(24)
    module.bias.grad = torch.full((3,), 0.1)
    config = OptimConfig(name="sgd", lr=1.0, clip_grad_norm=1.0, clip_by=clip_by)
    optimizers = Optimizers(module, param_groups(module), config, global_batch_size=256)
    before = copy.deepcopy(module)
    optimizers.set_schedule(50, 100)
    lr = optimizers.main.param_groups[0]["lr"]
    norm = optimizers.step()
    assert norm.item() == pytest.approx(math.sqrt(24.03), rel=1e-5)
    moved = [
        (old - new).norm().item() / lr
        for old, new in zip(before.parameters(), module.parameters(), strict=True)
    ]
    share = 1 / math.sqrt(24.03) if clip_by == "all" else 1.0
    whole = 1.0 if clip_by == "parameter" else math.sqrt(24) * share
    assert moved == pytest.approx([whole, share * math.sqrt(0.03)], rel=1e-4)


def test_the_second_optimiser_gets_the_discriminators_parameters_and_no_other() -> None:
    method = nn.ModuleDict({"generator": nn.Linear(2, 2), "discriminator": nn.Linear(2, 1)})
    groups = {group["name"]: group for group in adversarial_groups(method)}
    assert {name: group["optimizer"] for name, group in groups.items()} == {
        "main_decay": "main",
        "main_no_decay": "main",
        "discriminator_decay": "discriminator",
        "discriminator_no_decay": "discriminator",
    }
    assert groups["discriminator_decay"]["params"] == [method["discriminator"].weight]
    assert groups["main_no_decay"]["params"] == [method["generator"].bias]
