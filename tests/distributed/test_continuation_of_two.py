"""Two workers go on from weights as one process does: frozen first, then pulled."""

import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from models.batch_norm import convert_sync_batch_norm
from models.collectives import world_size
from models.method import total_loss
from models.optim import OptimConfig
from models.starting.continuation import Anchor, StartConfig, gentle_groups
from models.steps.optimizers import Optimizers
from tests.distributed.test_methods_of_two import assert_as_one, my_batch
from tests.distributed.two_processes import TwoProcesses, in_float64
from tests.small_methods import build

START = StartConfig(layer_decay=0.7, frozen_steps=2, pull=0.5)
PLAIN = OptimConfig(name="sgd", lr=1e-4, lr_scaling="none", warmup_fraction=0, momentum=0)


def train(name: str) -> dict[str, dict[str, Tensor]]:
    """Four steps in float64, of which the encoder waits for two."""
    with in_float64():
        method = build(name)[0].double()
        network: torch.nn.Module = method
        if world_size() > 1:
            converted = convert_sync_batch_norm(method)
            network = DistributedDataParallel(converted, broadcast_buffers=False)
        parts = Optimizers(method, gentle_groups(method, START), PLAIN, 256)
        anchor = Anchor(method, START)
        frozen = {key: p.detach().clone() for key, p in method.trained_encoder.named_parameters()}
        for step in range(4):
            parts.set_schedule(step, 4)
            total_loss(network(my_batch(name, epoch=step, dtype=torch.float64))).backward()
            anchor.hold(step, parts.main)
            parts.step()
            method.after_step(step + 1, 4)
            waits = all(
                torch.equal(p, frozen[key]) for key, p in method.trained_encoder.named_parameters()
            )
            assert waits == (step < 2)
    return {"gradients": {}, "state": method.state_dict()}


@pytest.mark.parametrize("name", ["simclr", "dino"])
def test_two_workers_go_on_from_weights_as_one_process(
    name: str, two_processes: TwoProcesses
) -> None:
    assert_as_one(train(name), *two_processes(train, name))
