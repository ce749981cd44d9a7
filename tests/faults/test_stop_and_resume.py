"""Runs stopped by a signal or killed outright go on at their newest checkpoint; each in processes
of its own."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from jobs.training.run_dir import RunDir
from tests import commands
from tests.faults import killing

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def words(image_folder: Path, out: Path, num_steps: int) -> list[str]:
    return [
        *(*commands.TINY, f"source.uri={image_folder}", f"out={out}", f"num_steps={num_steps}"),
        *("cluster.address=local", "checkpoint.every_s=1"),
    ]


def steps(out: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_checkpoints_says_how_to_go_on_and_exits_1(
    number: int, image_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = commands.start("pretrain", *words(image_folder, out, 100_000))
    commands.read_until(process, "step      3/")
    process.send_signal(number)
    _, stderr = process.communicate(timeout=200)
    assert process.returncode == 1
    found = re.search(
        r"stopped at step (\d+) of 100000; the same command line goes on from there", stderr
    )
    assert found is not None, stderr
    assert RunDir(str(out)).committed_step() == int(found[1])
    finished = commands.run("pretrain", *words(image_folder, out, int(found[1]) + 3), "--json")
    assert finished.returncode == 0, finished.stderr
    assert (
        finished.stderr.startswith(f"resuming {out} from step {found[1]}")
        or f"from step {found[1]} of" in finished.stderr
    )
    assert json.loads(finished.stdout.splitlines()[-1])["steps"] == int(found[1]) + 3
    assert steps(out) == list(range(1, int(found[1]) + 4))


def test_a_driver_killed_outright_is_resumed_by_the_same_command_line(
    image_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = commands.start("pretrain", *words(image_folder, out, 100_000))
    commands.read_until(process, "step      9/")
    while not RunDir(str(out)).committed_step():
        assert process.poll() is None
    family = killing.descendants(process.pid)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    killing.wait_for_end(family)  # the workers may commit another step before Ray ends them
    committed = RunDir(str(out)).committed_step()
    finished = commands.run(
        "pretrain", *words(image_folder, out, committed + 5), "cluster.num_workers=2", "--json"
    )
    assert finished.returncode == 0, finished.stderr
    assert f"going on from step {committed} on 2 workers" in finished.stderr
    assert steps(out)[-6:] == list(range(committed, committed + 6))


def test_a_killed_training_worker_is_replaced_within_the_run(
    image_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = commands.start("pretrain", *words(image_folder, out, 400), "cluster.num_workers=2")
    commands.read_until(process, "step   5/")
    found = subprocess.run(
        ["pgrep", "-s", str(process.pid), "-f", "RayTrainWorker"], capture_output=True, text=True
    )
    candidates = found.stdout.split() or _train_workers(process.pid)
    os.kill(int(candidates[-1]), signal.SIGKILL)
    commands.read_until(process, "going on from step")
    _, stderr = process.communicate(timeout=400)
    assert process.returncode == 0, stderr
    assert steps(out)[-1] == 400 and sorted(set(steps(out))) == steps(out)


def _train_workers(driver: int) -> list[str]:
    """Process ids of the training workers that descend from a driver."""
    listed = subprocess.run(
        ["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()[1:]]
    parents = {pid: parent for pid, parent, _ in rows}

    def descends(pid: str) -> bool:
        while pid in parents:
            if pid == str(driver):
                return True
            pid = parents[pid]
        return False

    return [pid for pid, _, command in rows if "RayTrainWorker" in command and descends(pid)]
