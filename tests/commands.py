"""Runs jobs as a user does: `python -m jobs.<verb>` in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent

# A run that takes moments: 32 px crops would only make it slower.
TINY = (
    *(
        "simclr_small",
        "encoder.width=8",
        "method.hidden_dim=32",
        "method.projection_dim=16",
        "views.size=16",
    ),
    *("global_batch_size=32", "log.every_steps=1"),
)


def start(verb: str, *words: str, **variables: str) -> subprocess.Popen[str]:
    """Start a job."""
    command = [sys.executable, "-m", f"jobs.{verb}", *words]
    env = {**os.environ, **variables}
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(
    verb: str, *words: str, timeout_s: float = 280, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a job to its end."""
    process = start(verb, *words, **variables)
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"{words} took more than {timeout_s} s\n{out}\n{err}") from None
    return subprocess.CompletedProcess([verb, *words], process.returncode, out, err)


def read_until(process: subprocess.Popen[str], text: str) -> list[str]:
    """Read stderr up to the first line that holds a text; raises where the job ends before.

    Where stderr goes the way of stdout, that is read.
    """
    stream = process.stderr or process.stdout
    assert stream is not None
    lines: list[str] = []
    for line in stream:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError(f"no line with {text!r} came:\n{''.join(lines)}")


@contextmanager
def two_nodes(cpus: tuple[int, int], env: dict[str, str] | None = None) -> Iterator[str]:
    """A Ray cluster of two nodes on this machine; gives its address. In a process of its own: one
    Ray a process.

    Args:
        cpus: Of each node.
        env: The nodes' variables; None: this process's.
    """
    script = (
        "import sys\n"
        "from ray.cluster_utils import Cluster\n"
        "from tests.nodes import add_node\n"
        f"head = dict(num_cpus={cpus[0]}, include_dashboard=False)\n"
        "cluster = Cluster(initialize_head=True, head_node_args=head)\n"
        f"add_node(cluster, num_cpus={cpus[1]})\n"
        "cluster.wait_for_nodes()\n"
        "print(cluster.address, flush=True)\n"
        "sys.stdin.read()\n"
        "cluster.shutdown()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None and process.stdin is not None
    try:
        lines = iter(process.stdout.readline, "")
        yield next(line.strip() for line in lines if ":" in line and " " not in line.strip())
    finally:
        process.stdin.close()
        process.wait(60)


def script(text: str, *words: str, timeout_s: float = 200) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, to its end."""
    return subprocess.run(
        [sys.executable, "-c", text, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
