"""Kills parts of a pretraining run at random moments until it is done, and counts from its audit
what the weights saw.

By hand, printing every kill: `python -m tests.faults.killing FOLDER OUT --seed 3 --kills 20
[--nodes]`.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.training.run_dir import RunDir
from pipelines.storage import uris
from tests import commands

# What the kernel shows of the processes of a run.
TRAIN_WORKER, DATA_WORKER, RAYLET = "ray::RayTrainWorker", "ray::MapBatches(", "raylet/raylet"


@dataclass
class Killer:
    """Runs a job again and again, each time on another number of workers, and kills parts of it on
    the way.

    Attributes:
        words: The command line without `cluster.num_workers`.
        seed: Of who is killed, and when.
        kills: How many; after that the run is left alone.
        victims: Whom to choose from: `train worker`, `data worker`, `driver`, `everything` or
            `node`.
        address: Of an existing cluster; None: a local Ray each time.
        world_sizes: Numbers of workers, in turn.
        log: What was done, for people.
        verb: Of the command.
    """

    words: list[str]
    seed: int
    kills: int
    victims: tuple[str, ...] = ("train worker", "data worker", "driver", "everything")
    address: "Nodes | None" = None
    world_sizes: tuple[int, ...] = (1, 2, 3)
    log: list[str] = field(default_factory=list)
    verb: str = "pretrain"

    def run(self, timeout_s: float = 240) -> None:
        """Run to the end; each start may take `timeout_s`."""
        chance, start = random.Random(self.seed), 0
        while True:
            workers = self.world_sizes[start % len(self.world_sizes)]
            process = self._start(workers)
            self._note(f"start {start}: {workers} workers")
            if self._trouble(process, workers, chance, timeout_s):
                return
            start += 1

    def _start(self, workers: int) -> subprocess.Popen[str]:
        address = self.address.address if self.address else "local"
        return commands.start(
            self.verb,
            *self.words,
            f"cluster.num_workers={workers}",
            f"cluster.address={address}",
            "cluster.max_failures=9",
        )

    def _trouble(
        self, process: subprocess.Popen[str], workers: int, chance: random.Random, timeout_s: float
    ) -> bool:
        """Kill parts of one start until it ends; True where it ended well."""
        deadline = time.monotonic() + timeout_s
        try:
            commands.read_until(process, f" on {workers} worker")
            while self.kills > 0 and process.poll() is None:
                time.sleep(chance.uniform(0.5, 8))
                victim = chance.choice(self.victims)
                if process.poll() is None and self._kill(victim, process):
                    self.kills -= 1
                    self._note(f"killed {victim}, {self.kills} to go")
            _, stderr = process.communicate(timeout=max(1, deadline - time.monotonic()))
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        if process.returncode not in (0, -signal.SIGKILL):
            raise AssertionError(f"the job ended with {process.returncode}:\n{stderr[-3000:]}")
        return process.returncode == 0

    def _kill(self, victim: str, process: subprocess.Popen[str]) -> bool:
        """Kill what is called so; False where there is no such process just now."""
        if victim == "node":
            assert self.address is not None
            self.address.replace()
            return True
        if victim == "driver":
            os.killpg(process.pid, signal.SIGKILL)
            return True
        if victim == "everything":
            for pid in [*descendants(process.pid), process.pid]:
                _sigkill(pid)
            return True
        name = {"train worker": TRAIN_WORKER, "data worker": DATA_WORKER}[victim]
        family = descendants(self.address.pid if self.address else process.pid)
        found = [pid for pid in family if name in _command_line(pid)]
        return bool(found) and _sigkill(found[-1])

    def _note(self, text: str) -> None:
        self.log.append(text)
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


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


def wait_for_end(pids: list[int]) -> None:
    """Wait until processes have ended; a zombie has no command line."""
    while any(map(_command_line, pids)):
        time.sleep(0.1)


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:  # it has ended since it was listed
        return ""


def _sigkill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


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

    def replace(self) -> None:
        """Kill one worker node outright, as a spot notice would, and add another."""
        self._ask("replace")

    def add(self) -> None:
        """Add a worker node."""
        self._ask("add")

    def lose(self) -> None:
        """Kill the worker node that is there longest."""
        self._ask("lose")

    def processes(self, name: str) -> list[int]:
        """Return the ids of the cluster's processes that hold a text in their command line."""
        return [pid for pid in descendants(self.pid) if name in _command_line(pid)]

    def _ask(self, what: str) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        while (line := self._process.stdout.readline()).strip() != "done":
            assert line, "the cluster has ended"


@contextmanager
def nodes(cpus: int = 4, count: int = 2, *, dashboard: bool = False) -> Iterator[Nodes]:
    """Start a head and `count` nodes of `cpus` logical CPUs each, in a process of their own."""
    # Any free ports: other clusters may run on this machine.
    head = {"num_cpus": 0, "include_dashboard": dashboard, "dashboard_port": 0}
    head |= {"dashboard_agent_listen_port": 0}
    script = f"""
import sys
from ray.cluster_utils import Cluster
from tests.nodes import add_node
cluster = Cluster(initialize_head=True, head_node_args={head})
workers = [add_node(cluster, num_cpus={cpus}) for _ in range({count})]
cluster.wait_for_nodes()
print("address", cluster.address, cluster.head_node.webui_url, flush=True)
for line in sys.stdin:
    if line.strip() in ("replace", "lose"):
        cluster.remove_node(workers.pop(0), allow_graceful=False)
    if line.strip() in ("replace", "add"):
        workers.append(add_node(cluster, num_cpus={cpus}))
    print("done", flush=True)
cluster.shutdown()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=commands.ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
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


def seen(run: str) -> dict[int, Counter[int]]:
    """How often the history of the last weights saw each sample, by epoch.

    Of every step its last attempt counts. Steps behind the last checkpoint are in no weights: a
    driver may be killed between their audit and their checkpoint.
    """
    last: dict[int, int] = {}
    folder = uris.join(run, "samples")
    parts = [uris.read_bytes(uris.join(folder, name)) for name in sorted(uris.list_names(folder))]
    tables = [pq.read_table(pa.BufferReader(part)) for part in parts]
    rows = [
        row
        for table in tables
        for row in zip(*(column.to_pylist() for column in table.columns), strict=True)
    ]
    for _, step, attempt, _, _ in rows:
        last[step] = max(last.get(step, -1), attempt)
    committed = RunDir(run).committed_step()
    assert set(range(1, committed + 1)) <= set(last), "a step is missing from the audit"
    epochs: dict[int, Counter[int]] = {}
    for epoch, step, attempt, _, sample in rows:
        if last[step] == attempt and step <= committed:
            epochs.setdefault(epoch, Counter())[sample] += 1
    return epochs


def check_each_once(run: str, samples: int = 200, batch: int = 32) -> None:
    """Check that the history of the last weights saw each sample of each epoch once.

    Args:
        run: Of `debug.log_samples`.
        samples: Of an epoch.
        batch: Samples of a step.
    """
    epochs = seen(run)
    whole, rest = divmod(batch * RunDir(run).committed_step(), samples)
    shown = [len(epochs[epoch]) for epoch in sorted(epochs)]
    assert shown == [samples] * whole + [rest] * (rest > 0), shown
    assert all(set(counts.values()) == {1} for counts in epochs.values())
    assert all(set(epochs[epoch]) == set(epochs[0]) for epoch in range(whole))


def main() -> None:
    """Kill a run of a folder's images by hand."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--nodes", action="store_true")
    args = parser.parse_args()
    words = [
        *commands.TINY,
        f"source.uri={args.folder}",
        f"out={args.out}",
        f"num_steps={args.steps}",
    ]
    words += [
        "global_batch_size=192",
        "checkpoint.every_s=2",
        "debug.log_samples=true",
        "cluster.shared_fs=true",
    ]
    words += ["log.every_steps=10"]
    if args.nodes:
        with nodes() as cluster:
            victims = ("train worker", "data worker", "driver", "node")
            Killer(words, args.seed, args.kills, victims, cluster).run()
    else:
        Killer(words, args.seed, args.kills).run()
    for epoch, counts in seen(args.out).items():
        print(
            f"epoch {epoch}: {len(counts)} samples, "
            f"{sum(n > 1 for n in counts.values())} of them more than once"
        )


if __name__ == "__main__":
    main()
