"""Two processes with SyncBatchNorm against one with nn.BatchNorm on the joined batch."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.batch_norm import convert_sync_batch_norm
from models.collectives import rank, world_size
from tests.distributed.two_processes import TwoProcesses

_ROWS = 6
_INPUTS = {
    "rows": (_ROWS, 5),
    "sequences": (_ROWS, 5, 7),
    "images": (_ROWS, 5, 4, 3),
    "channels_last": (_ROWS, 5, 4, 3),
    "far_from_zero": (_ROWS, 5, 4, 3),
}


def joined_input(kind: str) -> Tensor:
    x = torch.randn(_INPUTS[kind], generator=torch.Generator().manual_seed(0))
    # the two halves differ in mean and spread
    x = x * 2 + torch.arange(_ROWS).reshape(-1, *[1] * (x.ndim - 1))
    if kind == "far_from_zero":
        x = x + 1000
    return x.contiguous(memory_format=torch.channels_last) if kind == "channels_last" else x


def new_norm(kind: str, **options: object) -> nn.Module:
    norm = (nn.BatchNorm2d if len(_INPUTS[kind]) == 4 else nn.BatchNorm1d)(5, **options)
    if norm.affine:
        nn.init.uniform_(norm.weight, 0.5, 2, generator=torch.Generator().manual_seed(1))
        nn.init.normal_(norm.bias, generator=torch.Generator().manual_seed(2))
    return norm


def my_rows(x: Tensor, first_rows: int = _ROWS // 2) -> Tensor:
    if world_size() == 1:
        return x
    return x[:first_rows] if rank() == 0 else x[first_rows:]


def normalise(
    kind: str, options: dict[str, object], first_rows: int = _ROWS // 2
) -> dict[str, Tensor]:
    norm = new_norm(kind, **options)
    if world_size() > 1:
        convert_sync_batch_norm(norm)
    everything = joined_input(kind)
    for _ in range(2):  # the running statistics take two steps
        x = my_rows(everything, first_rows).detach().requires_grad_()
        y = norm(x)
    weights = torch.randn(everything.shape, generator=torch.Generator().manual_seed(3))
    (y * my_rows(weights, first_rows)).sum().backward()
    kept = {"y": y.detach(), "grad_x": x.grad, **norm.state_dict()}
    kept |= {f"grad_{name}": parameter.grad for name, parameter in norm.named_parameters()}
    norm.eval()
    kept["evaluated"] = norm(x).detach()
    kept["is_channels_last"] = torch.tensor(
        x.ndim == 4 and y.is_contiguous(memory_format=torch.channels_last)
    )
    return kept


def assert_equal_to_joined(
    results: list[dict[str, Tensor]], joined: dict[str, Tensor], tolerance: float
) -> None:
    assert {key for result in results for key in result} == set(joined)
    for key, expected in joined.items():
        first, second = (result[key] for result in results)
        if key in ("y", "grad_x", "evaluated"):
            actual = torch.cat([first, second])
        elif key in ("grad_weight", "grad_bias"):
            actual = first + second
        else:
            assert torch.equal(first, second), key
            actual = first
        torch.testing.assert_close(
            actual, expected, rtol=tolerance, atol=tolerance, msg=lambda m, k=key: f"{k}: {m}"
        )


@pytest.mark.parametrize("kind", _INPUTS)
def test_two_processes_equal_one_with_the_joined_batch(
    two_processes: TwoProcesses, kind: str
) -> None:
    joined = normalise(kind, {})
    # One ulp of 1000 is 6e-5 and the input's spread is 2: nn.BatchNorm itself is no nearer to
    # float64 there.
    tolerance = 2e-4 if kind == "far_from_zero" else 2e-5
    assert_equal_to_joined(two_processes(normalise, kind, {}), joined, tolerance)


def test_workers_may_hold_batches_of_different_size(two_processes: TwoProcesses) -> None:
    assert_equal_to_joined(two_processes(normalise, "images", {}, 1), normalise("images", {}), 2e-5)


@pytest.mark.parametrize(
    "options", [{"affine": False}, {"momentum": None}, {"track_running_stats": False}], ids=str
)
def test_options_of_batch_norm_are_kept(
    two_processes: TwoProcesses, options: dict[str, object]
) -> None:
    results = two_processes(normalise, "images", options)
    joined = normalise("images", options)
    # then evaluation normalises by the batch at hand, here and in torch
    if "track_running_stats" in options:
        for result in [*results, joined]:
            del result["evaluated"]
    assert_equal_to_joined(results, joined, 2e-5)


def normalise_half() -> dict[str, Tensor]:
    norm = new_norm("images")
    if world_size() > 1:
        convert_sync_batch_norm(norm)
    x = my_rows(joined_input("images").bfloat16()).requires_grad_()
    y = norm(x)
    (y.float() * my_rows(torch.linspace(-1, 1, 360).reshape(6, 5, 4, 3))).sum().backward()
    return {
        "y": y.detach(),
        "grad_x": x.grad,
        "running_mean": norm.running_mean,
        "grad_weight": norm.weight.grad,
    }


def test_half_precision_input_has_float32_statistics(two_processes: TwoProcesses) -> None:
    results = two_processes(normalise_half)
    assert results[0]["y"].dtype == torch.bfloat16
    assert results[0]["running_mean"].dtype == torch.float32
    exact = joined_input("images").bfloat16().double().mean((0, 2, 3)).float() * 0.1
    torch.testing.assert_close(results[0]["running_mean"], exact, rtol=1e-5, atol=1e-6)
    assert_equal_to_joined(results, normalise_half(), 2e-2)


def small_network() -> nn.Module:
    generator = torch.Generator().manual_seed(4)
    # No bias before a norm: its gradient is zero but for rounding.
    layers = nn.Sequential(
        nn.Conv2d(5, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8, 3, bias=False),
        nn.BatchNorm1d(3),
    )
    for parameter in layers.parameters():
        nn.init.normal_(parameter, 0.5, generator=generator)
    return layers


def train_step() -> dict[str, Tensor]:
    network = small_network()
    if world_size() > 1:
        network = DistributedDataParallel(convert_sync_batch_norm(network))
    target = torch.randn(_ROWS, 3, generator=torch.Generator().manual_seed(5))
    error = (network(my_rows(joined_input("images"))) - my_rows(target)).pow(3)
    # This worker's share of the mean over the global batch, times the workers, as DDP divides by
    # them.
    (error.sum() * world_size() / target.numel()).backward()
    return {
        name.removeprefix("module."): parameter.grad
        for name, parameter in network.named_parameters()
    }


def test_gradients_that_ddp_averages_equal_those_of_one_process(
    two_processes: TwoProcesses,
) -> None:
    expected = train_step()
    for result in two_processes(train_step):
        assert result.keys() == expected.keys()
        for name, grad in expected.items():
            torch.testing.assert_close(
                result[name], grad, rtol=1e-4, atol=1e-4 * float(grad.abs().max()), msg=name
            )
