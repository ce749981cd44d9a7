"""Parameters divided between two workers train as whole ones, and their checkpoints open
anywhere."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import ray.train
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from jobs.training import checkpoints
from jobs.training.run_config import load_pretrain
from jobs.training.state import TrainState
from models import collectives
from models.registry import METHODS
from pipelines.stream.ledger import Ledger
from tests.distributed.test_methods_of_two import my_batch
from tests.distributed.two_processes import TwoProcesses
from tests.small_methods import NUM_ROWS, NUM_SAMPLES, build

NUM_STEPS = 4
TURNING = ("whitening", "centroids")  # along directions of a variance, which rounding turns
HALFWAY = 2
# batch norm and a head; a teacher; masks and a decoder; weights that are set anew; two optimisers
NAMES = [
    "mae",
    *(
        pytest.param(name, marks=pytest.mark.long)
        for name in ("simclr", "context_encoder_adversarial")
    ),
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("dino", "deepcluster")),
]


def begin(name: str, settings: dict[str, Any]) -> TrainState:
    """A run's state before its first step."""
    kind = METHODS[name]
    optim = {"name": "adamw", "lr": 1e-4, "clip_grad_norm": 1.0}
    config = load_pretrain(
        {
            "method": kind.small.model_dump(),
            "encoder": build(name)[1].model_dump(),
            "views": {"size": kind.small_px},
            "source": {"uri": "/data"},
            "out": "/out",
            "optim": optim | ({"discriminator": optim} if kind.adversarial else {}),
            "num_steps": NUM_STEPS,
            "global_batch_size": NUM_SAMPLES,
            **settings,
        }
    )
    state = TrainState(config, torch.device("cpu"), Ledger(0, ()))
    state.method.expect_rows(NUM_ROWS)
    return state


def train(
    name: str, folder: str, stop: int, settings: dict[str, Any]
) -> dict[str, dict[str, Tensor]]:
    """Go on from a folder's checkpoint up to a step, on this worker's share of every batch; leave a
    checkpoint there."""
    state = begin(name, settings)
    if (Path(folder) / checkpoints.STATE).exists():
        state.restore(ray.train.Checkpoint.from_directory(folder))
    kept = [
        each.to_local() if isinstance(each, DTensor) else each for each in state.method.parameters()
    ]
    norms = list[Tensor]()
    while state.step < stop:
        state.begin_step(NUM_STEPS)
        state.backward(my_batch(name, epoch=state.step, dtype=torch.float32), synchronise=True)
        norms.append(state.update(NUM_STEPS))
    whole = state.state_dict()
    if state.is_sharded and collectives.rank() != 0:
        assert all(whole["method"][name] is None for name, _ in state.method.named_parameters())
    if collectives.rank() == 0:
        checkpoints.write(folder, whole, Ledger(0, ()))
    collectives.all_reduce_sum(torch.zeros(()))  # the other one waits until it is written
    shipped = state.shipped(NUM_ROWS)
    assert (shipped is None) == (collectives.rank() != 0)
    return {
        "method": whole["method"],
        "encoder": dict(shipped[0].state_dict()) if shipped else {},
        "kept": {"values": torch.tensor(sum(each.numel() for each in kept))},
        "norm": {"last": norms[-1]},
    }


def assert_alike(
    found: dict[str, dict[str, Tensor]], expected: dict[str, dict[str, Tensor]]
) -> None:
    for part in ("method", "encoder", "norm"):
        assert found[part].keys() == expected[part].keys()
        for key, x in expected[part].items():
            if key in TURNING:
                continue
            torch.testing.assert_close(
                found[part][key], x, rtol=2e-3, atol=2e-4, msg=f"{part} {key}"
            )


@pytest.mark.parametrize("name", NAMES)
def test_divided_parameters_train_as_whole_ones_and_go_on_in_one_process(
    name: str, two_processes: TwoProcesses, tmp_path: Path
) -> None:
    plain, divided = tmp_path / "plain", tmp_path / "divided"
    for folder in (plain, divided):
        folder.mkdir()
    shard = {"train": {"shard": True}}
    expected = two_processes(train, name, str(plain), NUM_STEPS, {})[0]
    halfway = two_processes(train, name, str(divided), HALFWAY, shard)
    assert all(each["kept"]["values"] < 0.6 * expected["kept"]["values"] for each in halfway)
    alone = tmp_path / "alone"
    shutil.copytree(divided, alone)
    assert_alike(two_processes(train, name, str(divided), NUM_STEPS, shard)[0], expected)
    assert_alike(train(name, str(alone), NUM_STEPS, shard), expected)
