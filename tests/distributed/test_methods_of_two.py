"""Every registered method: two workers train as one process does."""

import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from models.batch_norm import convert_sync_batch_norm
from models.collectives import rank, world_size
from models.method import Batch
from models.registry import METHODS
from tests.distributed.two_processes import TwoProcesses
from tests.small_methods import NUM_SAMPLES, build, make_batch

_INVALID = [0, 1, 2, 8]  # three samples of rank 0, one of rank 1


def train_once(name: str) -> dict[str, Tensor]:
    """Gradients of one step on this worker's half of the batch, synchronised; on the whole batch in one process."""
    method, _ = build(name)
    batch = make_batch(name)
    batch["valid"][_INVALID] = False
    network: torch.nn.Module = method
    if world_size() > 1:
        mine = slice(rank() * NUM_SAMPLES // 2, (rank() + 1) * NUM_SAMPLES // 2)
        batch = Batch(
            views={group: views[:, mine] for group, views in batch["views"].items()},
            sample_id=batch["sample_id"][mine],
            epoch=batch["epoch"][mine],
            valid=batch["valid"][mine],
        )
        network = DistributedDataParallel(convert_sync_batch_norm(method))
    network(batch)["loss"].backward()
    return {key: p.grad for key, p in method.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", list(METHODS))
def test_gradients_of_two_workers_are_those_of_one_process_with_the_joined_batch(
    name: str, two_processes: TwoProcesses
) -> None:
    expected = train_once(name)
    for gradients in two_processes(train_once, name):
        assert gradients.keys() == expected.keys()
        for key, gradient in gradients.items():
            # Rounding gives 3e-5 at most, batch norm left to each worker's own samples 2.
            assert (gradient - expected[key]).norm() < 1e-3 * expected[key].norm(), key
