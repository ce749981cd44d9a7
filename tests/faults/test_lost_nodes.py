"""Nodes that are killed outright, one of them the only one of a run, and one that is announced to
leave."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.training.run_dir import RunDir
from tests import commands
from tests.faults.killing import check_each_once
from tests.nodes import nodes

DRAIN = """
import subprocess, sys
import ray
from ray.util import placement_group_table

ray.init(address=sys.argv[1], log_to_driver=False)
groups = [one for one in placement_group_table().values() if one["state"] == "CREATED"]
(node,) = {node for one in groups for node in one["bundles_to_node_id"].values()}
command = [sys.argv[2], "drain-node", "--address", sys.argv[1], "--node-id", node]
command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
subprocess.run([*command, "--deadline-remaining-seconds", "600"], check=True)
"""


def start(address: str, image_folder: Path, out: Path, *words: str) -> subprocess.Popen[str]:
    common = [f"source.uri={image_folder}", f"out={out}", f"cluster.address={address}"]
    common += ["cluster.shared_fs=true", "cluster.cpus_per_worker=2", "cluster.max_failures=1"]
    return commands.start("pretrain", *commands.TINY, *common, *words)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_node_that_is_announced_to_leave_saves_a_checkpoint(
    image_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = ["num_steps=1000000", "checkpoint.every_s=100000", "log.every_steps=10"]
    with nodes(cpus=3, count=2) as cluster:
        process = start(cluster.address, image_folder, out, *words)
        try:
            commands.read_until(process, "loss")
            assert RunDir(str(out)).committed_step() == 0
            ray = str(Path(sys.executable).parent / "ray")
            drained = commands.script(DRAIN, cluster.address, ray)
            assert drained.returncode == 0, drained.stderr
            deadline = time.monotonic() + 100
            while not RunDir(str(out)).committed_step():
                assert process.poll() is None and time.monotonic() < deadline
                commands.read_until(process, "loss")
        finally:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_whose_only_node_is_lost_goes_on_by_itself_on_another(
    image_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = ["num_steps=1000000", "checkpoint.every_s=1", "log.every_steps=5"]
    words += ["cluster.num_workers=1", "debug.log_samples=true"]
    with nodes(cpus=3, count=1) as cluster:
        process = start(cluster.address, image_folder, out, *words)
        try:
            while not RunDir(str(out)).committed_step():
                commands.read_until(process, "loss")
            cluster.lose()
            commands.read_until(process, "waiting for")
            cluster.add()
            commands.read_until(process, "going on from step ")
            commands.read_until(process, "loss")
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=120)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 1 and "the same command line goes on from there" in stderr, stderr
    check_each_once(str(out))
