"""Banks grow as in a training worker: behind the data-parallel wrapper, which was made before
anything was restored."""

import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from models.batch_norm import convert_sync_batch_norm
from models.registry import METHODS, build_method
from tests.distributed.test_methods_of_two import my_batch
from tests.distributed.two_processes import TwoProcesses
from tests.small_methods import ENCODERS, NUM_ROWS, SIZE


def train_from_an_empty_bank(name: str) -> dict[str, Tensor]:
    kind = METHODS[name]
    method = build_method(kind.small, ENCODERS[0], kind.default_views(SIZE), 0)
    network = DistributedDataParallel(convert_sync_batch_norm(method), broadcast_buffers=False)
    method.expect_rows(NUM_ROWS)
    for step in range(2):
        network(my_batch(name, epoch=step, dtype=torch.float32))["loss"].backward()
        method.after_step(step + 1, 4)
    return {key: value.clone() for key, value in method.state_dict().items()}


@pytest.mark.parametrize("name", ["instance_discrimination", "deepcluster", "exemplar"])
def test_a_bank_that_grows_behind_the_wrapper_is_equal_on_both_workers(
    name: str, two_processes: TwoProcesses
) -> None:
    first, second = two_processes(train_from_an_empty_bank, name)
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    assert (
        any(len(value) == NUM_ROWS for value in first.values() if value.ndim) or name == "exemplar"
    )
