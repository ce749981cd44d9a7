"""A cluster in short: a submitted run that grows; and, slow, one that keeps its folder from
another, grows, loses a node and its driver, and goes on.

The long forms are slow: `test_growth`, `test_lost_nodes`, `test_stop_and_resume`,
`tests/integration/test_cluster.py`. All of these share one cluster, in a process of its own.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.training.run_dir import RunDir
from tests import commands
from tests.faults import killing
from tests.nodes import Nodes, command_line, nodes

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    """A head without CPUs, and one node of three, on which a run of one worker fits."""
    with nodes(cpus=3, count=1, dashboard=True) as started:
        yield started


def submit(cluster: Nodes, *words: str) -> subprocess.Popen[str]:
    """Submit pretraining; all that it says comes by `stdout`."""
    command = [str(Path(sys.executable).parent / "ray"), "job", "submit", "--working-dir", "."]
    return subprocess.Popen(
        [*command, "--", sys.executable, "-m", "jobs.pretrain", *commands.TINY, *words],
        cwd=commands.ROOT,
        env={**os.environ, "RAY_API_SERVER_ADDRESS": cluster.job_server},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def range_of_workers(images: Path, out: Path) -> list[str]:
    """A run that takes a second worker where there comes a second node."""
    words = [f"source.uri={images}", f"out={out}", "num_steps=100000", "log.every_steps=5"]
    words += ["cluster.shared_fs=true", "cluster.num_workers=1..2", "cluster.cpus_per_worker=2"]
    return [*words, "checkpoint.every_s=1", "debug.log_samples=true"]


@pytest.mark.slow
def test_a_local_place_on_several_nodes_is_refused(
    cluster: Nodes, image_folder: Path, tmp_path: Path
) -> None:
    words = (
        f"source.uri={image_folder}",
        f"out={tmp_path}/m",
        f"cluster.address={cluster.address}",
    )
    refused = commands.run("index", *words)
    assert refused.returncode == 2 and "and the cluster has 2 nodes" in refused.stderr
    assert "cluster.shared_fs=true" in refused.stderr and not (tmp_path / "m").exists()


def test_a_submitted_run_grows_with_its_cluster_and_saves_where_it_is_stopped(
    cluster: Nodes, image_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    submitted = submit(cluster, *range_of_workers(image_folder, out))
    try:
        commands.read_until(submitted, "training on 1 worker")
        commands.read_until(submitted, "loss")
        cluster.add()
        commands.read_until(submitted, " on 2 workers")
        commands.read_until(submitted, "loss")
        for process in cluster.processes("jobs.pretrain"):
            if command_line(process).startswith(sys.executable):  # its shell has the same words
                os.kill(process, signal.SIGTERM)
        said, _ = submitted.communicate(timeout=100)
    finally:
        submitted.kill()
        cluster.lose()
    assert submitted.returncode == 1 and "the same command line goes on from there" in said, said
    killing.check_each_once(str(out))


@pytest.mark.slow
def test_a_submitted_run_keeps_its_folder_grows_and_outlives_a_node_and_its_driver(
    cluster: Nodes, image_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = range_of_workers(image_folder, out)
    here = [*words, f"cluster.address={cluster.address}"]
    submitted = submit(cluster, *words)
    try:
        commands.read_until(submitted, "training on 1 worker")
        commands.read_until(submitted, "loss")
        cluster.add()
        # meanwhile a second driver, with the same command line, as a user would by mistake
        second = commands.run("pretrain", *commands.TINY, *here)
        assert second.returncode == 2 and f"out {out} is in use by pretrain on" in second.stderr
        commands.read_until(submitted, " on 2 workers")
        commands.read_until(submitted, "loss")
        cluster.lose()
        commands.read_until(submitted, "on 1 worker")
        commands.read_until(submitted, "loss")
        workers = cluster.processes(killing.TRAIN_WORKER)
        for driver in cluster.processes("jobs.pretrain"):
            os.kill(driver, signal.SIGKILL)
        submitted.communicate(timeout=100)
    finally:
        submitted.kill()
    assert submitted.returncode == 1
    killing.wait_for_end(workers)  # they may commit another step before Ray ends them
    committed = RunDir(str(out)).committed_step()
    assert committed

    again = commands.start("pretrain", *commands.TINY, *here)
    try:
        commands.read_until(again, f"going on from step {committed} on 1 worker")
        commands.read_until(again, "loss")
        again.send_signal(signal.SIGTERM)
        _, stderr = again.communicate(timeout=100)
    finally:
        again.kill()
    stopped = re.search(r"stopped at step (\d+) of 100000; the same command line", stderr)
    assert again.returncode == 1 and stopped is not None, stderr
    steps = RunDir(str(out)).committed_step()
    assert int(stopped[1]) == steps > committed
    killing.check_each_once(str(out))
