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
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.training.run_dir import RunDir
from pipelines.storage import uris
from tests import commands
from tests.nodes import Nodes, command_line, descendants, nodes

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
    address: Nodes | None = None
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
                if process.poll() is None and kill(victim, process, self.address):
                    self.kills -= 1
                    self._note(f"killed {victim}, {self.kills} to go")
            _, stderr = process.communicate(timeout=max(1, deadline - time.monotonic()))
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        if process.returncode not in (0, -signal.SIGKILL):
            raise AssertionError(f"the job ended with {process.returncode}:\n{stderr[-3000:]}")
        return process.returncode == 0

    def _note(self, text: str) -> None:
        self.log.append(text)
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def kill(victim: str, process: subprocess.Popen[str], cluster: Nodes | None) -> bool:
    """Kill a part of a job; False where there is no such process just now.

    Args:
        victim: `train worker`, `data worker`, `driver`, `everything` or, of a cluster, `node`.
        process: The driver.
        cluster: Where it runs; None: on a local Ray.
    """
    if victim == "node":
        assert cluster is not None
        cluster.replace()
        return True
    if victim == "driver":
        os.killpg(process.pid, signal.SIGKILL)
        return True
    if victim == "everything":
        for pid in [*descendants(process.pid), process.pid]:
            _sigkill(pid)
        return True
    name = {"train worker": TRAIN_WORKER, "data worker": DATA_WORKER}[victim]
    family = descendants(cluster.pid if cluster else process.pid)
    found = [pid for pid in family if name in command_line(pid)]
    return bool(found) and _sigkill(found[-1])


def wait_for_end(pids: list[int]) -> None:
    """Wait until processes have ended; a zombie has no command line."""
    while any(map(command_line, pids)):
        time.sleep(0.1)


def _sigkill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


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


def check_each_once(run: str, samples: int = 200, batch: int = 32, bad: int = 0) -> None:
    """Check that the history of the last weights saw each sample of each epoch once.

    Args:
        run: Of `debug.log_samples`.
        samples: Of an epoch.
        batch: Samples of a step.
        bad: How many of an epoch's samples cannot be read, and are never seen.
    """
    epochs = seen(run)
    whole, rest = divmod(batch * RunDir(run).committed_step(), samples)
    shown = [len(epochs[epoch]) for epoch in sorted(epochs)]
    assert shown[:whole] == [samples - bad] * whole, shown
    assert len(shown) <= whole + 1 and rest - bad <= sum(shown[whole:]) <= rest, shown
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
