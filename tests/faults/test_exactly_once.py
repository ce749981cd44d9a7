"""Whatever is killed, the weights have seen every sample of each epoch once; each run in processes
of its own."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from jobs.training.run_dir import RunDir
from pipelines.corpus.manifest import open_manifest
from tests import commands
from tests.faults.killing import Killer, seen
from tests.nodes import nodes

NUM_STEPS = 60


@pytest.fixture
def corpus(image_folder: Path, tmp_path: Path) -> Path:
    """96 images: half a step of 192, so that every step straddles two epochs."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number, path in enumerate(sorted(image_folder.rglob("*.jpg"))[:96]):
        shutil.copy(path, folder / f"{number:03d}.jpg")
    return folder


def words(corpus: Path, out: Path, *more: str) -> list[str]:
    return [
        *(
            *commands.TINY,
            f"source.uri={corpus}",
            f"out={out}",
            f"num_steps={NUM_STEPS}",
            "global_batch_size=192",
        ),
        *("checkpoint.every_s=1", "debug.log_samples=true", "log.every_steps=5", *more),
    ]


def check(out: Path, num_samples: int = 96, num_steps: int = NUM_STEPS) -> None:
    epochs = seen(str(out))
    ids = set(epochs[0])
    assert len(ids) == num_samples
    assert sorted(epochs) == list(range(num_steps * 192 // num_samples))
    assert all(counts == Counter(ids) for counts in epochs.values())


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_killed_driver_goes_on_with_fewer_workers_and_repeats_nothing(
    corpus: Path, tmp_path: Path
) -> None:
    Killer(
        words(corpus, tmp_path / "run", "num_steps=30"),
        seed=1,
        kills=1,
        victims=("driver",),
        world_sizes=(2, 1),
    ).run()
    check(tmp_path / "run", num_steps=30)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_workers_and_drivers_repeat_and_lose_nothing(corpus: Path, tmp_path: Path) -> None:
    Killer(
        words(corpus, tmp_path / "run"), seed=1, kills=2, victims=("train worker", "driver")
    ).run()
    check(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seed", [2, 3])
def test_whatever_is_killed_on_one_machine(seed: int, corpus: Path, tmp_path: Path) -> None:
    Killer(words(corpus, tmp_path / "run"), seed, kills=6).run()
    check(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_killed_nodes_repeat_and_lose_nothing(corpus: Path, tmp_path: Path) -> None:
    with nodes() as cluster:
        more = words(corpus, tmp_path / "run", "cluster.shared_fs=true")
        Killer(
            more, seed=5, kills=4, victims=("node", "train worker", "data worker"), address=cluster
        ).run()
    check(tmp_path / "run")


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_deterministic_run_has_the_losses_of_one_that_was_not(
    workers: int, corpus: Path, tmp_path: Path
) -> None:
    more = (
        "deterministic=true",
        "log.every_steps=1",
        "cluster.address=local",
        f"cluster.num_workers={workers}",
    )
    straight = commands.run("pretrain", *words(corpus, tmp_path / "straight", *more))
    assert straight.returncode == 0, straight.stderr
    killed = words(corpus, tmp_path / "killed", *more)
    Killer(
        killed, seed=6, kills=2, victims=("train worker", "driver"), world_sizes=(workers,)
    ).run()
    expected, found = lines(tmp_path / "straight"), lines(tmp_path / "killed")
    assert [line["step"] for line in found] == list(range(1, NUM_STEPS + 1))
    assert [line["loss"] for line in found] == [line["loss"] for line in expected]
    assert RunDir(str(tmp_path / "killed")).read_config() is not None


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_newer_manifest_version_joins_the_running_epoch(
    corpus: Path, image_folder: Path, tmp_path: Path
) -> None:
    manifest, out = tmp_path / "manifest", tmp_path / "run"
    assert commands.run("index", f"source.uri={corpus}", f"out={manifest}").returncode == 0
    first = [*words(manifest, out), "cluster.address=local"]
    # two epochs
    assert commands.run("pretrain", *first, "num_steps=3", "global_batch_size=64").returncode == 0
    for number, path in enumerate(sorted(image_folder.rglob("*.png"))[:32]):
        shutil.copy(path, corpus / f"new-{number:03d}.png")
    assert commands.run("index", f"source.uri={corpus}", f"out={manifest}").returncode == 0
    assert open_manifest(str(manifest)).num_rows == 128
    done = commands.run("pretrain", *first, "num_steps=6", "global_batch_size=64")
    assert done.returncode == 0 and "goes on with manifest version 2" in done.stderr, done.stderr
    assert {epoch: len(counts) for epoch, counts in seen(str(out)).items()} == {
        0: 96,
        1: 96,
        2: 128,
        3: 64,
    }
