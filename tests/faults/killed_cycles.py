"""Kills parts of retraining cycles at every step, gives the same command again until it is done,
and compares what came of it with cycles that nobody disturbed.

By hand, printing every kill: `python -m tests.faults.killed_cycles FOLDER --seed 1 --kills 20
[--nodes] [--registry s3://bucket/prefix]`.
"""

import argparse
import hashlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.retrain import STEPS
from jobs.retraining.cycle import all_of
from models import artifact
from pipelines.embeddings.stored import open_stored
from pipelines.registry import model_versions, moves
from pipelines.registry.registered_model import RegisteredModel
from tests import commands
from tests.faults.killing import kill
from tests.nodes import Nodes, nodes

NAME = "encoder"
LIMIT_S = 600.0  # of one command
VICTIMS = ("driver", "everything", "train worker", "data worker")


@dataclass
class Loop:
    """Cycles over a corpus that grows.

    Attributes:
        registry: Its folder, local or in object storage.
        corpus: Folder of the corpus; the same for loops that are compared, as paths key the draws.
        slots: How many cycles.
        cluster: Where they run; None: a local Ray each time.
    """

    registry: str
    corpus: Path
    slots: int
    cluster: Nodes | None = None

    @property
    def model(self) -> RegisteredModel:
        return RegisteredModel(self.registry, NAME)

    def start(self, slot: int) -> subprocess.Popen[str]:
        words = [
            *commands.TINY,
            *(f"registry={self.model.registry}", f"name={NAME}", f"slot={slot}"),
            *(f"source.uri={self.corpus}", "num_steps=30", "deterministic=true"),
            *("checkpoint.every_s=1", "retrain.min_recognised=0", "retrain.max_distance=null"),
            *("retrain.max_shift=null", "retrain.max_loss=1", "retrain.max_rank_loss=1"),
            *("retrain.max_slice_loss=1", "health.grace_steps=1000", "cluster.max_failures=9"),
            f"cluster.address={self.cluster.address if self.cluster else 'local'}",
            "cluster.shared_fs=true",
        ]
        return commands.start("retrain", *words)

    def outcome(self) -> dict[str, Any]:
        """Return what must be the same whoever was killed, and check what must be there once."""
        model = self.model
        out = f"{model.uri}/retraining"
        cycles = all_of(out)
        made = [cycle.steps["promote"]["version"] for cycle in cycles]
        assert made == list(range(1, self.slots + 1)), f"versions {made}"
        versions = model_versions.all_of(model)
        assert [version.number for version in versions][-1] >= self.slots
        counted = Counter((move.alias, move.after) for move in moves.history(model))
        assert set(counted.values()) == {1}, f"moved more than once: {counted}"
        for cycle in cycles:
            told = cycle.steps["export"]
            stored = open_stored(told["embeddings"])
            ids = [one for block in stored.blocks() for one in block.ids.tolist()]
            assert len(ids) == len(set(ids)) >= cycle.steps["index"]["rows"], cycle.slot
        return {
            "decisions": [cycle.decision for cycle in cycles],
            # not their digests: those tell where the weights of the start lie
            "weights": [_hash_of(version.artifact) for version in versions],
            "champion": moves.standing(model, "champion").version,
            "samples": [cycle.steps["train"]["samples"] for cycle in cycles],
        }


def _hash_of(place: str) -> str:
    """Hash the weights of an artifact."""
    hashed = hashlib.sha256()
    for name, value in sorted(artifact.load(place).encoder.state_dict().items()):
        hashed.update(name.encode() + value.numpy().tobytes())
    return hashed.hexdigest()[:16]


@dataclass
class Trouble:
    """Kills.

    Attributes:
        chance: Of who and when.
        kills: How many are left.
        victims: Whom to choose from.
    """

    chance: random.Random
    kills: int
    victims: tuple[str, ...]

    def run(self, loop: Loop, slot: int, share: int) -> None:
        """Run one slot to its end, with so many kills on the way."""
        for _ in range(100):
            process = loop.start(slot)
            if share > 0:
                share -= self._disturb(process, loop)
            _, stderr = process.communicate(timeout=LIMIT_S)
            if process.returncode == 0:
                return
            if process.returncode not in (-signal.SIGKILL, 1):
                raise AssertionError(
                    f"slot {slot} ended with {process.returncode}:\n{stderr[-3000:]}"
                )
            if process.returncode == 1:
                self._note(f"slot {slot} ended by itself: {stderr.strip().splitlines()[-1]}")
        raise AssertionError(f"slot {slot} does not come to its end")

    def _disturb(self, process: subprocess.Popen[str], loop: Loop) -> int:
        """Wait for a step and kill somebody in it; returns how many were killed."""
        step = self.chance.choice(STEPS)
        victim = self.chance.choice(self.victims)
        try:
            commands.read_until(process, f": {step}\n")
        except AssertionError:
            return 0  # that step was done before
        time.sleep(self.chance.uniform(0, 4))
        if process.poll() is not None or not kill(victim, process, loop.cluster):
            return 0
        self.kills -= 1
        self._note(f"killed {victim} at {step}, {self.kills} to go")
        return 1

    def _note(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def grow(corpus: Path, photographs: list[Path], slot: int, slots: int) -> None:
    """Add the photographs of a slot: half of all in the first one."""
    half = len(photographs) // 2
    rest = max(1, half // max(1, slots - 1))
    start, stop = (0, half) if slot == 1 else (half + (slot - 2) * rest, half + (slot - 1) * rest)
    corpus.mkdir(exist_ok=True)
    for number, path in enumerate(photographs[start:stop]):
        shutil.copy2(path, corpus / f"{slot}-{number:04d}{path.suffix}")


def outcomes(
    photographs: list[Path],
    folder: Path,
    *,
    seed: int,
    kills: int,
    slots: int,
    on_nodes: bool,
    registry: str | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run the same cycles undisturbed and with kills; returns what came of both.

    Args:
        photographs: What the corpus grows by.
        folder: For the corpus and the registries.
        seed: Of the kills.
        kills: How many.
        slots: How many cycles.
        on_nodes: Kill on a cluster of nodes, and nodes too.
        registry: Where the disturbed cycles write; None: in the folder.
    """
    victims = (*VICTIMS, "node") if on_nodes else VICTIMS
    corpus = folder / "corpus"
    calm = Loop(str(folder / "calm"), corpus, slots)
    with nodes(cpus=3, count=2) if on_nodes else nullcontext() as cluster:
        rough = Loop(registry or str(folder / "rough"), corpus, slots, cluster)
        trouble = Trouble(random.Random(seed), kills, victims)
        for slot in range(1, slots + 1):
            grow(corpus, photographs, slot, slots)
            Trouble(random.Random(0), 0, victims).run(calm, slot, 0)
            share = kills // slots + (slot <= kills % slots)
            trouble.run(rough, slot, share)
    return calm.outcome(), rough.outcome()


def main() -> None:
    """Kill cycles over a folder's images by hand."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--slots", type=int, default=3)
    parser.add_argument("--nodes", action="store_true")
    parser.add_argument("--registry", help="where the disturbed cycles write; it must be empty")
    args = parser.parse_args()
    photographs = sorted(path for path in Path(args.folder).rglob("*.jpg"))[:200]
    with tempfile.TemporaryDirectory(prefix="killed-cycles-") as folder:
        calm, rough = outcomes(
            photographs,
            Path(folder),
            seed=args.seed,
            kills=args.kills,
            slots=args.slots,
            on_nodes=args.nodes,
            registry=args.registry,
        )
    print(calm, rough, sep="\n", file=sys.stderr)
    assert rough == calm


if __name__ == "__main__":
    main()
