"""How training processes find one another: Ray Train's own steps for torch, asked for by name.

`ray.train.torch.TorchConfig` brings torch into Ray Train's controller, which computes nothing:
1.3 s of a CPU before the workers start, and 400 MB on the head of a cluster. Here only the workers
import it. `tests/jobs/cluster/test_process_group.py` holds it against Ray's.
"""

import importlib
import os
from contextlib import AbstractContextManager
from typing import Any

import ray
from ray.train.backend import Backend, BackendConfig

from jobs.cluster.ray_cluster import TORCH, address_of_this_process

LEAVES_S = 30.0  # for workers to leave their group; after that they are ended all the same
TIMEOUT_S = 1800  # of a collective operation, as in Ray's own


class ProcessGroup(BackendConfig):
    """Joins the training processes of a worker group by torch.distributed.

    Args:
        backend: `nccl` or `gloo`.
    """

    def __init__(self, backend: str) -> None:
        self.backend = backend

    @property
    def backend_cls(self) -> type[Backend]:
        """Return what the controller does for it."""
        return _Joining

    @property
    def train_func_context(self) -> Any:
        """Return what surrounds the loop of a worker: it makes its own GPU the one that counts."""
        return _on_own_device

    @property
    def framework(self) -> Any:
        """Return what Ray's pages are to call it."""
        return TORCH

    def to_dict(self) -> dict[str, Any]:
        """Return what Ray's pages show of it."""
        return {"backend": self.backend, "init_method": "env", "timeout_s": TIMEOUT_S}


class _Joining(Backend):
    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Let the workers of a new group meet at the first of them."""
        assert isinstance(backend_config, ProcessGroup)
        address, port = worker_group.execute_single(0, address_of_this_process)
        worker_group.execute(_meet_at, address, port)
        size = len(worker_group)
        joined = [
            worker_group.execute_single_async(rank, _join, backend_config.backend, rank, size)
            for rank in range(size)
        ]
        ray.get(joined)

    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Let the workers of a group that ends leave it."""
        left = worker_group.execute_async(_leave, len(worker_group) > 1)
        ray.wait(left, num_returns=len(left), timeout=LEAVES_S)


def _config() -> Any:
    return importlib.import_module("ray.train.torch.config")


def _on_own_device() -> AbstractContextManager[None]:
    context: AbstractContextManager[None] = _config().TorchConfigContextManager()
    return context


def _meet_at(address: str, port: int) -> None:
    os.environ["MASTER_ADDR"] = address
    os.environ["MASTER_PORT"] = str(port)


def _join(backend: str, rank: int, size: int) -> None:
    torch_config = _config()
    torch_config._set_torch_distributed_env_vars()
    torch_config._setup_torch_process_group(backend, rank, size, "env://", TIMEOUT_S)


def _leave(destroy: bool) -> None:
    _config()._shutdown_torch(destroy_process_group=destroy)
