"""A cluster in short: a job that waits for room; a submitted run on object storage that grows,
loses its driver and a node at once, goes on and is stopped by a signal; and, slow, one that keeps
its folder from another and outlives a node.

The long forms are slow: `test_growth`, `test_lost_nodes`, `test_stop_and_resume`,
`tests/integration/test_cluster.py`. All of these share one cluster, in a process of its own.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs.artifact import MakeArtifactConfig, make
from jobs.training.run_dir import RunDir
from models import artifact
from pipelines.corpus.manifest import open_manifest
from pipelines.storage import uris
from pipelines.stream import quarantine
from pipelines.stream.plan import Plan
from tests import commands
from tests.faults import killing
from tests.nodes import Nodes, command_line, nodes
from tests.object_store import ObjectStore

pytestmark = pytest.mark.timeout(600)

HOLDER = """
import sys
import ray

ray.init(address=sys.argv[1], log_to_driver=False)

@ray.remote(num_cpus=3)
class Holder:
    def ready(self):
        return True

holder = Holder.remote()
print(ray.get(holder.ready.remote()), flush=True)
sys.stdin.read()
"""
MONITOR = """
import sys, time
import ray
from jobs.training.steering.monitor import Monitor, start_monitor

ray.init(address=sys.argv[1], log_to_driver=False)
(node,) = (one["NodeID"] for one in ray.nodes() if one["Alive"] and one["Resources"].get("CPU"))
there = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
elsewhere = ray.remote(num_cpus=0)(Monitor).options(scheduling_strategy=there).remote()
monitor = start_monitor()
for one in (elsewhere, monitor):
    ray.get(one.log.remote({"step": 1}))
print("there", flush=True)
try:
    while True:  # its process outlives its node by a moment
        ray.get(elsewhere.take.remote())
        time.sleep(0.1)
except ray.exceptions.RayActorError:
    print("lost")
print(ray.get(monitor.take.remote()))
"""

TOLD = (
    ({"RAY_AUTH_MODE": "disabled"}, "wants a token and none was sent: set RAY_AUTH_MODE=token"),
    ({"RAY_AUTH_MODE": "token"}, "wants a token and none was sent: set RAY_AUTH_MODE=token"),
    (
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 32},
        "refuses the token: set RAY_AUTH_TOKEN",
    ),
)


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


def range_of_workers(images: Path | str, out: Path | str) -> list[str]:
    """A run that takes a second worker where there comes a second node."""
    words = [f"source.uri={images}", f"out={out}", "num_steps=100000", "log.every_steps=1"]
    words += ["cluster.shared_fs=true", "cluster.num_workers=1..2", "cluster.cpus_per_worker=2"]
    return [*words, "checkpoint.every_s=0.001", "debug.log_samples=true"]


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


def test_a_second_job_waits_for_room_and_names_who_holds_it(
    cluster: Nodes, image_folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "holder.py"
    path.write_text(HOLDER)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    first = subprocess.Popen([sys.executable, str(path), cluster.address], text=True, **pipes)
    assert first.stdin is not None and first.stdout is not None
    while "True" not in first.stdout.readline():
        assert first.poll() is None
    words = [f"source.uri={image_folder}", f"out={tmp_path / 'manifest'}"]
    second = commands.start(
        "index", *words, f"cluster.address={cluster.address}", "cluster.shared_fs=true"
    )
    waits = commands.read_until(second, "waiting for room")[-1]
    first.stdin.close()
    out, err = second.communicate(timeout=200)
    first.wait(60)
    assert "room for 1 x (1 CPU): 0 of 3 CPUs are free; the rest is held by `python" in waits
    assert "holder.py" in waits
    assert second.returncode == 0 and "200 samples" in out, err


def test_a_missing_and_a_wrong_token_are_told_apart(cluster: Nodes, tmp_path: Path) -> None:
    script = (
        "import sys; from jobs.cluster import joining\n"
        "try: joining.join(sys.argv[1], {})\n"
        "except ValueError as error: print(error)\n"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}
    env["HOME"] = str(tmp_path)  # where Ray looks for a token as well
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [  # all at once: each waits most of the time
        subprocess.Popen(
            [sys.executable, "-c", script, cluster.address],
            cwd=commands.ROOT,
            env=env | variables,
            **pipes,  # type: ignore[call-overload]
        )
        for variables, _ in TOLD
    ]
    for process, (variables, said) in zip(started, TOLD, strict=True):
        stdout, stderr = process.communicate(timeout=150)
        assert said in stdout and stdout.count("\n") == 1, (variables, stderr)


def drivers(cluster: Nodes) -> list[int]:
    """Process ids of submitted runs; their shells have the same words."""
    found = cluster.processes("jobs.pretrain")
    return [process for process in found if command_line(process).startswith(sys.executable)]


def test_a_submitted_run_on_object_storage_grows_loses_its_driver_and_a_node_goes_on_and_is_stopped(
    cluster: Nodes,
    object_store: ObjectStore,
    image_folder: Path,
    put_folder: Callable[[Path, str], None],
) -> None:
    images, out = "s3://grows/images", "s3://grows/run"
    object_store.make_bucket("grows")
    put_folder(image_folder, images)
    uris.write_bytes(f"{images}/scene0/broken.jpg", b"no picture")  # one of 201
    words = range_of_workers(images, out)
    submitted = submit(cluster, *words)
    try:
        commands.read_until(submitted, "training on 1 worker")
        commands.read_until(submitted, "loss")
        cluster.add()
        commands.read_until(submitted, " on 2 workers")
        alone = RunDir(out).committed_step()
        while RunDir(out).committed_step() == alone:
            commands.read_until(submitted, "loss")
        workers = cluster.processes(killing.TRAIN_WORKER)
        assert len(workers) == 2
        for driver in drivers(cluster):
            os.kill(driver, signal.SIGKILL)
        submitted.communicate(timeout=200)
    finally:
        submitted.kill()
        cluster.lose()
    assert submitted.returncode == 1
    killing.wait_for_end(workers)  # they may commit another step before Ray ends them
    committed = RunDir(out).committed_step()
    assert committed > alone > 0

    steps = stopped_at_a_line(cluster, words, out, committed)
    killing.check_each_once(out, samples=201, bad=1)
    lines = [json.loads(line) for line in uris.read_bytes(f"{out}/metrics.jsonl").splitlines()]
    assert [line["step"] for line in lines] == list(range(1, steps + 1))
    assert {Path(row["uri"]).name for row in quarantine.read(f"{out}/quarantine")} == {"broken.jpg"}
    plan = Plan.fresh(open_manifest(f"{out}/manifest"), seed=0)
    planned = [uri for rows in plan.rows(0, 32 * steps) for uri in rows["uri"].to_pylist()]
    assert lines[-1]["bad_samples"] == planned.count(f"{images}/scene0/broken.jpg") > 0

    made = make(MakeArtifactConfig(run=out, out=f"{out}/made"))
    encoder = artifact.load(made["artifact"])
    assert encoder.provenance["samples_seen"] == 32 * steps == 32 * made["step"]


def stopped_at_a_line(cluster: Nodes, words: list[str], out: str, committed: int) -> int:
    """Go on with a run, stop it by SIGTERM once it trains, and return the step it says it is at."""
    again = commands.start("pretrain", *commands.TINY, *words, f"cluster.address={cluster.address}")
    try:
        commands.read_until(again, f"going on from step {committed} on 1 worker")
        commands.read_until(again, "loss")
        again.send_signal(signal.SIGTERM)
        _, stderr = again.communicate(timeout=200)
    finally:
        again.kill()
    stopped = re.search(r"stopped at step (\d+) of 100000; the same command line", stderr)
    assert again.returncode == 1 and stopped is not None, stderr
    steps = RunDir(out).committed_step()
    assert int(stopped[1]) == steps > committed
    return steps


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
        submitted.communicate(timeout=200)
    finally:
        submitted.kill()
    assert submitted.returncode == 1
    killing.wait_for_end(workers)  # they may commit another step before Ray ends them
    committed = RunDir(str(out)).committed_step()
    assert committed

    stopped_at_a_line(cluster, words, str(out), committed)
    killing.check_each_once(str(out))


def test_the_loss_of_any_other_node_leaves_the_monitor_alone(cluster: Nodes) -> None:
    command = [sys.executable, "-c", MONITOR, cluster.address]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=commands.ROOT, text=True, **pipes)
    assert process.stdout is not None
    while process.stdout.readline() != "there\n":
        assert process.poll() is None
    cluster.lose()  # nothing is left of the cluster to those that come later
    said, _ = process.communicate(timeout=200)
    # among what Ray itself says of the lost node
    assert {"lost", "[{'step': 1}]"} <= set(said.splitlines())
