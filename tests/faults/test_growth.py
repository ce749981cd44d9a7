"""A run of `cluster.num_workers=MIN..MAX` grows when the cluster does; nothing is repeated or lost
by it."""

import os
import signal
from pathlib import Path

import pytest

from tests import commands
from tests.faults.killing import check_each_once
from tests.nodes import nodes


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_node_added_in_a_run_gives_it_a_second_worker(image_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = [
        f"source.uri={image_folder}",
        f"out={out}",
        "num_steps=1000000",
        "debug.log_samples=true",
    ]
    words += ["checkpoint.every_s=1", "cluster.shared_fs=true", "cluster.num_workers=1..2"]
    # of three: a second worker needs a second node
    words += [
        "cluster.cpus_per_worker=2",
        "log.every_steps=10",
    ]
    with nodes(cpus=3, count=1) as cluster:
        process = commands.start(
            "pretrain", *commands.TINY, *words, f"cluster.address={cluster.address}"
        )
        try:
            commands.read_until(process, "training on 1 worker")
            commands.read_until(process, "loss")
            cluster.add()
            grown = commands.read_until(process, " on 2 workers")
            assert sum(" on 2 workers" in line or " on 1 worker" in line for line in grown) == 1, (
                "it has started more often than that"
            )
            for _ in range(5):
                commands.read_until(process, "loss")
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=120)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 1 and "the same command line goes on from there" in stderr, stderr
    check_each_once(str(out))
