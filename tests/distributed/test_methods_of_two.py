"""Every registered method: two workers train as one process does."""

import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from models.batch_norm import convert_sync_batch_norm
from models.collectives import rank, world_size
from models.method import Batch, total_loss
from models.registry import METHODS
from tests.distributed.two_processes import TwoProcesses, in_float64
from tests.small_methods import NUM_SAMPLES, build, make_batch, rows_of

_INVALID = [0, 1, 2, 8]  # three samples of rank 0, one of rank 1


def train_once(name: str) -> dict[str, dict[str, Tensor]]:
    """Gradients of the second step, and the state after it, on this worker's half of each batch; in
    one process on the whole batch. The first step fills queues and centres."""
    with in_float64():
        return _train_once(name)


def _train_once(name: str) -> dict[str, dict[str, Tensor]]:
    method = build(name)[0].double()
    network: torch.nn.Module = method
    if world_size() > 1:
        network = DistributedDataParallel(convert_sync_batch_norm(method), broadcast_buffers=False)
    # small: a step multiplies the first one's rounding
    optimizer = torch.optim.SGD(method.parameters(), lr=1e-4)
    for step in range(2):
        optimizer.zero_grad()
        total_loss(network(my_batch(name, epoch=step, dtype=torch.float64))).backward()
        method.before_step(step, 4)
        optimizer.step()
        method.after_step(step + 1, 4)
    gradients = {key: p.grad for key, p in method.named_parameters() if p.grad is not None}
    return {"gradients": gradients, "state": method.state_dict()}


def my_batch(name: str, epoch: int, dtype: torch.dtype) -> Batch:
    """This worker's half of a batch; in one process the whole."""
    batch = make_batch(name, epoch)
    batch["views"] = {
        group: views.to(dtype) if views.is_floating_point() else views
        for group, views in batch["views"].items()
    }
    batch["valid"][_INVALID] = False
    if world_size() == 1:
        return batch
    mine = slice(rank() * NUM_SAMPLES // 2, (rank() + 1) * NUM_SAMPLES // 2)
    return rows_of(batch, mine)


@pytest.mark.parametrize("name", list(METHODS))
def test_two_workers_train_as_one_process_with_the_joined_batch(
    name: str, two_processes: TwoProcesses
) -> None:
    assert_as_one(train_once(name), *two_processes(train_once, name))


def assert_as_one(
    expected: dict[str, dict[str, Tensor]],
    first: dict[str, dict[str, Tensor]],
    second: dict[str, dict[str, Tensor]],
) -> None:
    """Fail where either worker's gradients or state differ from those of one process."""
    for worker in (first, second):
        assert worker["gradients"].keys() == expected["gradients"].keys()
        for key, gradient in worker["gradients"].items():
            size = expected["gradients"][key].norm()
            assert (gradient - expected["gradients"][key]).norm() < 1e-9 * size, key
        for key, value in worker["state"].items():
            torch.testing.assert_close(
                value, expected["state"][key], rtol=1e-9, atol=1e-12, msg=key
            )
    assert all(torch.equal(first["state"][key], value) for key, value in second["state"].items())
