import copy

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d
from timm.layers.split_batchnorm import SplitBatchNorm2d
from torch import nn

from models.batch_norm import (
    GroupBatchNorm,
    SyncBatchNorm,
    convert_sync_batch_norm,
    group_batch_norm,
)


def network() -> nn.Module:
    head = nn.Sequential(nn.Flatten(), nn.Linear(8, 3), nn.BatchNorm1d(3, affine=False))
    return nn.Sequential(
        nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2, momentum=0.3), BatchNormAct2d(2), head
    )


def trained(module: nn.Module) -> nn.Module:
    for seed in range(3):
        x = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
        module.zero_grad()
        module(x).pow(3).sum().backward()
    return module


def test_in_one_process_a_converted_network_equals_the_original_to_the_bit() -> None:
    original = network()
    converted = convert_sync_batch_norm(copy.deepcopy(original))
    trained(original), trained(converted)
    state = converted.state_dict()
    assert all(torch.equal(state[name], value) for name, value in original.state_dict().items())
    pairs = zip(original.parameters(), converted.parameters(), strict=True)
    assert all(torch.equal(a.grad, b.grad) for a, b in pairs)
    x = torch.randn(4, 3, 4, 4)
    assert torch.equal(original.eval()(x), converted.eval()(x))


def test_conversion_reaches_every_batch_norm_and_keeps_state_keys_and_parameter_objects() -> None:
    module = network().eval()
    keys, parameters = list(module.state_dict()), list(module.parameters())
    converted = convert_sync_batch_norm(module)
    assert sum(isinstance(part, SyncBatchNorm) for part in converted.modules()) == 3
    assert not any(
        type(part) in (nn.BatchNorm1d, nn.BatchNorm2d, BatchNormAct2d)
        for part in converted.modules()
    )
    assert list(converted.state_dict()) == keys
    assert all(a is b for a, b in zip(converted.parameters(), parameters, strict=True))
    assert not any(part.training for part in converted.modules())
    assert converted[1].momentum == 0.3


def test_conversion_takes_a_lone_norm_and_is_idempotent() -> None:
    norm = convert_sync_batch_norm(nn.BatchNorm1d(4))
    assert isinstance(norm, SyncBatchNorm)
    assert convert_sync_batch_norm(norm) is norm


def test_state_dict_of_torch_batch_norm_loads() -> None:
    norm = nn.BatchNorm2d(3)
    norm(torch.randn(4, 3, 2, 2))
    loaded = SyncBatchNorm(3)
    loaded.load_state_dict(norm.state_dict())
    assert torch.equal(loaded.running_var, norm.running_var)


def test_a_batch_norm_whose_behaviour_would_be_lost_is_refused() -> None:
    with pytest.raises(ValueError, match="SplitBatchNorm2d"):
        convert_sync_batch_norm(nn.Sequential(SplitBatchNorm2d(4)))


def test_input_without_a_channel_dimension_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(B, C, \.\.\.\), got \(4,\)"):
        SyncBatchNorm(4)(torch.zeros(4))


def test_grouped_statistics_are_those_of_each_group_alone() -> None:
    x = torch.randn(7, 4, 3, 3, generator=torch.Generator().manual_seed(0)) * 3 + 1
    grouped = nn.Sequential(nn.BatchNorm2d(4))
    group_batch_norm(grouped, 3)
    norm = grouped[0]
    plain = [nn.BatchNorm2d(4) for _ in range(2)]
    expected = torch.cat(
        [alone(part) for alone, part in zip(plain, x.tensor_split(2), strict=True)]
    )
    torch.testing.assert_close(grouped(x), expected)
    for name in ("running_mean", "running_var"):
        mean = torch.stack([getattr(alone, name) for alone in plain]).mean(0)
        torch.testing.assert_close(getattr(norm, name), mean)
    assert norm.state_dict().keys() == plain[0].state_dict().keys()
    assert convert_sync_batch_norm(grouped)[0] is norm and isinstance(norm, GroupBatchNorm)
    grouped.eval()
    torch.testing.assert_close(
        grouped(x), nn.functional.batch_norm(x, norm.running_mean, norm.running_var)
    )
