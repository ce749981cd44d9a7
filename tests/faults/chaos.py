"""An hour of bad luck: two jobs share a cluster whose nodes come, are drained and die, while its
object store misbehaves; afterwards every sample must have been used once.

By hand, from a folder of images: `python -m tests.faults.chaos FOLDER --minutes 60 --seed 1`.
What was done and when is printed with the seed; the same seed draws the same events.
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.dataset as ds

from pipelines import schema
from pipelines.storage import uris
from tests import commands
from tests.faults.killing import DATA_WORKER, TRAIN_WORKER, seen
from tests.faults.s3fault import FaultProxy, Rule
from tests.nodes import Nodes, command_line, descendants
from tests.nodes import nodes as nodes_of
from tests.object_store import ObjectStore

CPUS = 3  # of a node: a training worker and two decoders
NODES = (1, 3)  # fewest and most
DRAIN_S = 20
STORE_BYTES = 400 << 20
SILENCE_S = 60  # a job that says nothing for longer hangs
START_S = 120  # until its process has started, which shares two cores with all the others'
STUCK_S = 240  # so does one that says nothing but the same for so long
WEATHERS: dict[str, list[Rule]] = {
    "clear": [],
    "throttled": [Rule("reply", prob=0.2)],
    "errors": [
        Rule("reply", status=500, code="InternalError", prob=0.05),
        Rule("reset", prob=0.05),
    ],
    "torn": [
        Rule("reset_body", method="GET", after=200, prob=0.05),
        Rule("trunc_body", method="GET", after=200, prob=0.05),
        Rule("ack_lost", method="PUT|POST", prob=0.05),
    ],
    "slow": [
        Rule("slow", method="GET", path=r"\.jpg", rate=2000, prob=0.05),
        Rule("hang", seconds=5, prob=0.02),
    ],
    "gone": [Rule("reset", prob=1.0)],  # for `GONE_S` only
}
GONE_S = 10
EVENTS = {"weather": 6, "add": 3, "kill": 2, "drain": 2, "kill worker": 2, "kill driver": 1}


@dataclass
class Job:
    """A command that is started again whenever its driver was killed.

    Attributes:
        verb: Of the command.
        words: The rest of its line.
        silences: Longest waits for a line, with the line before each.
        faults: What no event explains: exit codes, tracebacks, silences.
        lines: The last lines it printed.
        last_said: When, by the monotonic clock.
        last_new: When it last said something new.
    """

    verb: str
    words: list[str]
    log: Path
    silences: list[tuple[float, str]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    last_said: float = 0.0
    last_new: float = 0.0
    process: subprocess.Popen[str] | None = None
    ended: bool = False
    _killed: bool = False

    def start(self) -> None:
        """Start the command, and read what it says in a thread."""
        self.last_said = self.last_new = time.monotonic() + START_S
        self._killed = False
        self.process = commands.start(self.verb, *self.words)
        self._reader = threading.Thread(target=self._read, args=(self.process,), daemon=True)
        self._reader.start()

    def kill(self) -> None:
        """Kill the driver, as the loss of the head's memory would."""
        assert self.process is not None
        self._killed = True
        os.killpg(self.process.pid, signal.SIGKILL)

    def look(self) -> None:
        """Start the command again where it was killed; note an end that nobody caused."""
        assert self.process is not None
        code = self.process.poll()
        if code is None:
            self._look_at_silence(time.monotonic())
            return
        self._reader.join(30)
        if self._killed:
            self.start()
        elif code == 0:
            self.ended = True
        else:
            self.faults.append(f"ended with {code}: {self.lines[-3:]}")
            self.start()

    def _look_at_silence(self, now: float) -> None:
        for seconds, limit, what in (
            (now - self.last_said, SILENCE_S, "silent"),
            (now - self.last_new, STUCK_S, "stuck"),
        ):
            if seconds > limit:
                self.faults.append(f"{what} for {seconds:.0f} s after {self.lines[-1:]}")
                note(f"{self.verb} is {what}")
                self.last_said = self.last_new = now

    def stop(self, timeout_s: float = 300) -> None:
        """Interrupt the command, which then saves and ends."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.faults.append(f"still there {timeout_s} s after an interrupt")
                self.kill()
        self._reader.join(30)

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        with self.log.open("a") as log:
            for line in process.stderr:
                if "(raylet)" in line:  # what Ray says of the killed is no word of the job
                    continue
                now = time.monotonic()
                if now - self.last_said > 20:
                    self.silences.append((now - self.last_said, (self.lines or ["start"])[-1]))
                self.last_said = now
                if _is_news(line, (self.lines or [""])[-1]):
                    self.last_new = now
                self.lines = [*self.lines[-20:], line.rstrip()]
                log.write(f"{time.strftime('%H:%M:%S')} {line}")
                log.flush()
                if "Traceback" in line:
                    self.faults.append("a traceback")


def _is_news(line: str, before: str) -> bool:
    """Tell whether a line says something else than the one before, or that the job goes on, or
    that it is another's turn."""
    goes_on = re.match(r"step |.*\d/s$|waiting for room", line) is not None
    return goes_on or re.sub(r"\d+", "", line.rstrip()) != re.sub(r"\d+", "", before)


class Chance:
    """Draws events one after another and has them happen."""

    def __init__(self, seed: int, nodes: Nodes, proxy: FaultProxy, jobs: tuple[Job, ...]) -> None:
        self._draw = random.Random(seed)
        self._pauses = random.Random(seed + 1)
        self._nodes, self._proxy, self._jobs = nodes, proxy, jobs
        self._count = 1

    def strike_until(self, calm: threading.Event) -> None:
        """Let events happen, 5 to 40 s apart, and print them."""
        while not calm.wait(self._pauses.uniform(5, 40)):
            note(self._strike())

    def _strike(self) -> str:
        """Let one event happen; returns what it was."""
        event = self._draw.choices(list(EVENTS), list(EVENTS.values()))[0]
        number = self._draw.randrange(1000)
        if event == "weather":
            return self._change_weather(sorted(WEATHERS)[number % len(WEATHERS)])
        if event == "kill worker":
            return self._kill_worker(number)
        if event == "kill driver":
            job = self._jobs[number % len(self._jobs)]
            if job.process is None or job.process.poll() is not None:
                return f"no driver of {job.verb} to kill"
            job.kill()
            return f"killed the driver of {job.verb}"
        if (event == "add" and self._count == NODES[1]) or (
            event != "add" and self._count == NODES[0]
        ):
            event = "drain" if event == "add" else "add"
        if event == "add":
            self._count = self._nodes.add()
        elif event == "kill":
            self._count = self._nodes.lose(number)
        else:
            self._count = self._nodes.drain(number, DRAIN_S)
        return f"{event}: {self._count} nodes"

    def _change_weather(self, name: str) -> str:
        self._proxy.rules = WEATHERS[name]
        if name == "gone":
            time.sleep(GONE_S)
            self._proxy.rules = []
        return f"storage {name}"

    def _kill_worker(self, number: int) -> str:
        names = (TRAIN_WORKER, DATA_WORKER, "ray::MapWorker")
        found = [pid for pid in descendants(self._nodes.pid) if command_line(pid).startswith(names)]
        if not found:
            return "no worker to kill"
        victim = found[number % len(found)]
        what = command_line(victim).split("\0")[0]
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            return "the worker was gone already"
        return f"killed {what}"


def exported(out: str) -> Counter[int]:
    """Count how often each sample is in an export."""
    parts = uris.join(out, "embeddings")
    fs, folder = uris.arrow_filesystem(parts)
    names = [f"{folder}/{name}" for name in uris.list_names(parts)]
    table = ds.dataset(names, filesystem=fs).to_table(columns=[schema.SAMPLE_ID])
    return Counter(table[schema.SAMPLE_ID].to_pylist())


def note(text: str) -> None:
    """Print a line with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


@dataclass
class Bucket:
    """What the two jobs read and write."""

    images: str
    run: str
    artifact: str
    exports: str


def prepare(store: ObjectStore, folder: Path) -> Bucket:
    """Put the images into a bucket, and train a few steps for an artifact to export with."""
    bucket = store.make_bucket("chaos")
    names = Bucket(*(f"{bucket}/{name}" for name in ("images", "run", "first", "exports")))
    fs = store.filesystem()
    fs.put(str(folder), names.images.removeprefix("s3://"), recursive=True)
    words = (f"source.uri={names.images}", f"out={names.artifact}", "num_steps=2")
    done = commands.run("pretrain", *commands.TINY, *words, "cluster.address=local")
    assert done.returncode == 0, done.stderr
    return names


def jobs_of(names: Bucket, address: str, logs: Path) -> tuple[Job, Job]:
    """Name the two jobs that share the cluster."""
    common = [f"source.uri={names.images}", f"cluster.address={address}"]
    common += ["cluster.storage_timeout_s=5"]
    train = [*commands.TINY, *common, f"out={names.run}", "num_steps=100000000"]
    train += [
        "cluster.max_failures=-1",
        "checkpoint.every_s=10",
        "debug.log_samples=true",
        "log.every_steps=20",
    ]
    train += ["cluster.num_workers=1..2", "cluster.cpus_per_worker=1", "global_batch_size=192"]
    export = [f"artifact={names.artifact}/artifact", *common, "part_rows=256"]
    return (
        Job("pretrain", train, logs / "pretrain.log"),
        Job("export", [*export, f"out={names.exports}/0"], logs / "export.log"),
    )


def judge(names: Bucket, num_samples: int, num_exports: int) -> list[str]:
    """Tell what was lost or repeated."""
    wrong = []
    epochs = seen(names.run)
    note(f"pretrain: {len(epochs)} epochs, {sum(map(Counter.total, epochs.values()))} samples seen")
    last = max(epochs)
    for epoch, counts in sorted(epochs.items()):
        twice = sum(count > 1 for count in counts.values())
        missing = num_samples - len(counts) if epoch < last else 0
        if twice or missing:
            wrong.append(f"epoch {epoch}: {twice} samples twice, {missing} missing")
    for number in range(num_exports):
        rows = exported(f"{names.exports}/{number}")
        if len(rows) != num_samples or rows.total() != num_samples:
            wrong.append(f"export {number}: {rows.total()} rows of {len(rows)} samples")
    note(f"export: {num_exports} exports of {num_samples} samples")
    return wrong


def storm(names: Bucket, chance: Chance, jobs: tuple[Job, Job], minutes: float) -> int:
    """Keep both jobs going and events coming; returns how many exports were finished."""
    export = jobs[1]
    for job in jobs:
        job.start()
    until = time.monotonic() + 60 * minutes
    calm = threading.Event()
    done = 0
    thread = threading.Thread(target=chance.strike_until, args=(calm,), daemon=True)
    thread.start()
    while time.monotonic() < until:
        time.sleep(1)
        for job in jobs:
            job.look()
        if export.ended:
            done += 1
            note(f"export {done} ended")
            export.words[-1] = f"out={names.exports}/{done}"
            export.ended = False
            export.start()
    calm.set()
    thread.join()
    return done


def main() -> int:
    """Run the storm and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--logs", type=Path, default=Path(tempfile.gettempdir()) / "chaos")
    args = parser.parse_args()
    args.logs.mkdir(parents=True, exist_ok=True)
    note(f"seed {args.seed}, logs in {args.logs}")
    with ExitStack() as stack:
        store = ObjectStore(Path(tempfile.mkdtemp(prefix="chaos-")))
        os.environ |= store.env
        store.start()
        stack.callback(store.stop)
        names = prepare(store, args.folder)
        proxy = stack.enter_context(FaultProxy(store.endpoint, seed=args.seed))
        os.environ |= dict.fromkeys(("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"), proxy.endpoint)
        log = args.logs / "cluster.log"
        nodes = stack.enter_context(nodes_of(CPUS, 1, store_bytes=STORE_BYTES, log=log))
        jobs = jobs_of(names, nodes.address, args.logs)
        try:
            done = storm(names, Chance(args.seed, nodes, proxy, jobs), jobs, args.minutes)
            proxy.rules = []
            for job in jobs:
                job.stop()
        finally:
            for job in jobs:
                if job.process is not None and job.process.poll() is None:
                    job.kill()
        wrong = judge(names, len(list(args.folder.iterdir())), done)
    for job in jobs:
        longest = sorted(job.silences, reverse=True)[:3]
        note(f"{job.verb}: longest silences {json.dumps(longest)}")
        wrong += [f"{job.verb}: {fault}" for fault in job.faults]
    print("\n".join(wrong) or "nothing lost, repeated or left hanging")
    return len(wrong) > 0


if __name__ == "__main__":
    sys.exit(main())
