"""Every job starts on a cluster that has no nodes yet, and asks the autoscaler for them."""

import json
import shutil
from pathlib import Path

import pytest

from tests import autoscaling, commands


def there(address: str) -> list[str]:
    return [f"cluster.address={address}", "cluster.shared_fs=true"]


def halves(image_folder: Path, folder: Path) -> list[str]:
    """Copy half of the images of each scene to train with, and half to test with."""
    for file in image_folder.rglob("*.*"):
        part = "train" if int(file.stem) < 12 else "test"
        there = folder / part / file.parent.name
        there.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, there)
    return [f"train.uri={folder / 'train'}", f"test.uri={folder / 'test'}"]


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_job_starts_from_no_nodes(image_folder: Path, tmp_path: Path) -> None:
    words = [f"source.uri={image_folder}", f"out={tmp_path / 'manifest'}", "--json"]
    with autoscaling.from_nothing({"data": ({"CPU": 1.0}, 1)}) as address:
        done = commands.run("index", *words, *there(address))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["rows"] == 200


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("verb", ["pretrain", "adapt", "export"])
def test_a_job_of_workers_starts_from_no_nodes(
    verb: str, image_folder: Path, small_artifact: str, tmp_path: Path
) -> None:
    images = f"source.uri={image_folder}"
    artifact = f"artifact={small_artifact}"
    words = {
        "pretrain": [*commands.TINY, images, f"out={tmp_path / 'run'}", "num_steps=3"],
        "adapt": [artifact, *halves(image_folder, tmp_path)],
        "export": [artifact, images, f"out={tmp_path / 'vectors'}"],
    }
    with autoscaling.from_nothing({"data": ({"CPU": 3.0}, 1)}) as address:
        done = commands.run(verb, *words[verb], *there(address), timeout_s=240)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_gpus_that_may_come_are_chosen_over_cpus_that_are_up(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from jobs.cluster import launch\n"
        "from jobs.setup.sections import ClusterConfig\n"
        "with launch.session(ClusterConfig(address=sys.argv[1])) as session:\n"
        "    print(session.use_gpu, session.cpus_per_worker)\n"
    )
    kinds = {"data": ({"CPU": 4.0}, 1), "train": ({"CPU": 2.0, "GPU": 1.0}, 1)}
    with autoscaling.from_nothing(kinds) as address:
        done = commands.script(script, address)
    assert done.stdout.split() == ["True", "1.0"], done.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_no_node_that_may_come_can_hold_is_refused(image_folder: Path, tmp_path: Path) -> None:
    words = [*commands.TINY, f"source.uri={image_folder}", f"out={tmp_path / 'run'}"]
    words += ["num_steps=1", "cluster.num_workers=2"]
    with autoscaling.from_nothing({"data": ({"CPU": 2.0}, 1)}) as address:
        few = commands.run("pretrain", *words, *there(address))
        none = commands.run("pretrain", *words, *there(address), "cluster.use_gpu=true")
    assert few.returncode == none.returncode == 2
    assert "leave 0 of 2 CPUs" in few.stderr
    assert "the cluster has 0 GPUs" in none.stderr
