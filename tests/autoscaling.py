"""A Ray cluster on this machine whose autoscaler starts nodes, from none.

`ray.cluster_utils.AutoscalingCluster` reads a file that Ray's wheel does not hold, as does the
provider `fake_multinode` that it stands on; and it stops every Ray of the machine. The same
provider is here asked for as an `external` one, with all that the file would have said, in a head
of its own.
"""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests import commands

HEAD_ID = "f" * 51 + "00000"  # the provider counts its nodes from here
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
STORE = 150 << 20
# What Ray reads of every configuration, empty.
NOTHING = """
{auth: {}, docker: {}, file_mounts: {}, file_mounts_sync_continuously: false,
initialization_commands: [], setup_commands: [], head_setup_commands: [],
worker_setup_commands: [], head_start_ray_commands: [], worker_start_ray_commands: [],
cluster_synced_files: [], rsync_exclude: [], rsync_filter: []}
"""


@contextmanager
def from_nothing(kinds: Mapping[str, tuple[Mapping[str, float], int]]) -> Iterator[str]:
    """Start a head without CPUs and an autoscaler.

    Args:
        kinds: By name, what a kind of node has and how many of them there may be.

    Yields:
        The cluster's address.
    """
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:  # short: for sockets
        port = _free_port()
        path = Path(folder) / "autoscaling.yaml"
        path.write_text(yaml.safe_dump(_config(kinds, f"127.0.0.1:{port}")))
        command = [
            *(str(Path(sys.executable).parent / "ray"), "start", "--head", "--block"),
            *(f"--port={port}", "--num-cpus=0", "--num-gpus=0", "--include-dashboard=false"),
            *("--dashboard-agent-listen-port=0", f"--object-store-memory={STORE}"),
            *(f"--temp-dir={folder}", f"--autoscaling-config={path}"),
        ]
        variables = {
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
        }
        process = subprocess.Popen(
            command,
            cwd=commands.ROOT,
            env={**os.environ, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            assert process.stdout is not None
            lines = iter(process.stdout.readline, "")
            assert any("Ray runtime started" in line for line in lines), "the head did not start"
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(60)


def _config(kinds: Mapping[str, tuple[Mapping[str, float], int]], address: str) -> dict[str, Any]:
    provider = {
        "type": "external",
        "module": PROVIDER,
        "gcs_address": address,
        "head_node_id": HEAD_ID,
        "launch_multiple": True,
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    }
    types: dict[str, Any] = {
        name: {
            "resources": {**resources, "object_store_memory": STORE},
            "node_config": {},
            "min_workers": 0,
            "max_workers": most,
        }
        for name, (resources, most) in kinds.items()
    }
    head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    return {
        **yaml.safe_load(NOTHING),
        "cluster_name": "from-nothing",
        "max_workers": sum(most for _, most in kinds.values()),
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 5,
        "provider": provider,
        "head_node_type": "ray.head.default",
        "available_node_types": {**types, "ray.head.default": head},
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
