"""jobs.cluster.process_group: workers are joined and part as Ray Train's own backend does it."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import ray
import ray.train.torch.config as theirs

from jobs.cluster.process_group import TIMEOUT_S, ProcessGroup


class Group:
    """Two workers in this process."""

    def __len__(self) -> int:
        return 2

    def execute_async(self, function: Callable[..., Any], *args: Any, **named: Any) -> list[Any]:
        return [function(*args, **named) for _ in range(2)]

    execute = execute_async

    def execute_single(self, _: int, function: Callable[..., Any], *args: Any, **named: Any) -> Any:
        return function(*args, **named)

    execute_single_async = execute_single


def asked_for(backend: Any, config: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What workers do when a group starts and ends, addresses left out."""
    seen: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr(ray, "get", lambda reference, timeout=None: reference)
        patch.setattr(ray, "wait", lambda references, **_: (references, []))
        patch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            patch.setenv(name, "")
        for name in ("_set_torch_distributed_env_vars", "_shutdown_torch"):

            def note(*args: Any, name: str = name, **named: Any) -> None:
                seen.append((name, args, named))

            patch.setattr(theirs, name, note)
        patch.setattr(theirs.dist, "init_process_group", lambda **named: seen.append(named))
        backend.on_start(Group(), config)
        assert os.environ["MASTER_ADDR"] == "127.0.0.1" and int(os.environ["MASTER_PORT"]) > 0
        backend.on_shutdown(Group(), config)
    return sorted(seen, key=str)


def test_workers_do_what_they_do_under_rays_own(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = ProcessGroup("gloo")
    config = theirs.TorchConfig("gloo")
    assert config.timeout_s == TIMEOUT_S and config.to_dict() == ours.to_dict()
    assert config.framework == ours.framework
    assert ours.backend_cls.share_cuda_visible_devices
    assert isinstance(ours.train_func_context(), config.train_func_context)
    made = asked_for(ours.backend_cls(), ours, monkeypatch)
    assert made == asked_for(config.backend_cls(), config, monkeypatch)
    assert len(made) == 6


def test_the_controller_imports_no_torch_for_it() -> None:
    script = "import sys, jobs.cluster.process_group; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
