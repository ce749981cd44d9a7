"""Clusters of several nodes on one machine, each with a folder of its own, as machines have."""

import atexit
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests import commands

SCRIPT = """
import subprocess, sys, time
from pathlib import Path
from ray.cluster_utils import Cluster
from tests.nodes import add_node
cluster = Cluster(initialize_head=True, head_node_args={head})
workers = [add_node(cluster, **{node}) for _ in range({count})]
cluster.wait_for_nodes()
print("address", cluster.address, cluster.head_node.webui_url, flush=True)
for line in sys.stdin:
    what, *numbers = line.split()
    if what == "drain":
        node = workers[int(numbers[0]) % len(workers)]
        ray = str(Path(sys.executable).parent / "ray")
        command = [ray, "drain-node", f"--address={{cluster.address}}"]
        command += [f"--node-id={{node.node_id}}"]
        command += ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot"]
        command.append(f"--deadline-remaining-seconds={{numbers[1]}}")
        if subprocess.run(command, stdout=2).returncode:
            print("it was not drained: it dies as it is", file=sys.stderr)
        else:
            time.sleep(int(numbers[1]))
    if what in ("replace", "lose", "drain"):
        lost = int(numbers[0]) % len(workers) if numbers else 0
        cluster.remove_node(workers.pop(lost), allow_graceful=False)
    if what in ("replace", "add"):
        workers.append(add_node(cluster, **{node}))
    print("done", len(workers), flush=True)
cluster.shutdown()
"""


def add_node(cluster: Any, **args: Any) -> Any:
    """Add a node to a `ray.cluster_utils.Cluster`.

    By themselves its nodes share a folder: the first worker of each new one unpacks the job's code
    there once more, and deletes it under the workers of the others.

    Args:
        cluster: The cluster.
        args: As `Cluster.add_node` takes them.

    Returns:
        The node, as `Cluster.remove_node` takes it.
    """
    folder = tempfile.mkdtemp(prefix="node-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return cluster.add_node(temp_dir=folder, **args)


class Nodes:
    """A Ray cluster whose head holds no work, and worker nodes that can be killed and added.

    Attributes:
        address: For `cluster.address`.
        job_server: URL for `ray job submit`, where it has a dashboard.
        pid: Process that all of its processes descend from.
    """

    def __init__(self, process: subprocess.Popen[str], address: str, job_server: str) -> None:
        self._process = process
        self.address = address
        self.job_server = job_server
        self.pid = process.pid

    def replace(self) -> int:
        """Kill one worker node outright, as a spot notice would, and add another."""
        return self._ask("replace")

    def add(self) -> int:
        """Add a worker node; returns how many there are then."""
        return self._ask("add")

    def lose(self, index: int = 0) -> int:
        """Kill a worker node, of those there the `index`-th, modulo their number; 0 is there
        longest. Returns how many there are then."""
        return self._ask(f"lose {index}")

    def drain(self, index: int, seconds: int) -> int:
        """Announce the loss of a worker node, and kill it so many seconds later; returns how many
        there are then."""
        return self._ask(f"drain {index} {seconds}")

    def processes(self, name: str) -> list[int]:
        """Return the ids of the cluster's processes that hold a text in their command line."""
        return [pid for pid in descendants(self.pid) if name in command_line(pid)]

    def _ask(self, what: str) -> int:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        while not (line := self._process.stdout.readline()).startswith("done "):
            assert line, "the cluster has ended"
        return int(line.split()[1])


@contextmanager
def nodes(
    cpus: int = 4,
    count: int = 2,
    *,
    dashboard: bool = False,
    store_bytes: int | None = None,
    log: Path | None = None,
) -> Iterator[Nodes]:
    """Start a head and worker nodes, in a process of their own.

    Args:
        cpus: Logical CPUs of each worker node; the head has none.
        count: Worker nodes.
        dashboard: Whether jobs can be submitted.
        store_bytes: Of each node's object store; None: as Ray chooses.
        log: What the process says on stderr; None: nowhere.
    """
    # Any free ports: other clusters may run on this machine.
    head: dict[str, Any] = {"num_cpus": 0, "include_dashboard": dashboard, "dashboard_port": 0}
    head |= {"dashboard_agent_listen_port": 0}
    # A lost node is known after 5 s, for 15: until then a run waits for workers on it.
    head["_system_config"] = {"health_check_period_ms": 1000, "health_check_failure_threshold": 5}
    node = {"num_cpus": cpus}
    if store_bytes is not None:
        head["object_store_memory"] = store_bytes
        node["object_store_memory"] = store_bytes
    with open(log or "/dev/null", "w") as said:
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT.format(head=head, node=node, count=count)],
            cwd=commands.ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )
    assert process.stdout is not None and process.stdin is not None
    try:
        lines = iter(process.stdout.readline, "")
        told = next(line.split() for line in lines if line.startswith("address "))
        yield Nodes(process, told[1], f"http://{told[2]}" if len(told) > 2 else "")
    finally:
        process.stdin.close()
        process.wait(60)


def descendants(pid: int) -> list[int]:
    """Process ids of the children of a process, and of theirs."""
    listed = subprocess.run(
        ["ps", "-eo", "pid,ppid"], capture_output=True, text=True, check=True
    ).stdout
    parents = [tuple(map(int, line.split())) for line in listed.splitlines()[1:]]
    found = [pid]
    for parent in found:
        found += [child for child, its in parents if its == parent]
    return found[1:]


def command_line(pid: int) -> str:
    """Return the command line of a process, its words divided by zero bytes; empty where it has
    ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:  # it has ended since it was listed
        return ""
