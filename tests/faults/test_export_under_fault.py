"""Whatever is killed under an export, its rows are there once."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from pipelines.corpus.manifest import open_manifest
from pipelines.embeddings.stored import open_stored
from tests import commands
from tests.nodes import Nodes, nodes

PART_ROWS = 128
COPIES = 40


@pytest.fixture(scope="module")
def many(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6400 files: enough that an export is still at it when it is killed."""
    folder = tmp_path_factory.mktemp("many")
    for number in range(COPIES):
        for path in image_folder.rglob("*.jpg"):
            os.link(path, folder / f"{number}-{path.parent.name}-{path.name}")
    return folder


def start(cluster: Nodes, words: list[str]) -> subprocess.Popen[str]:
    placed = [f"cluster.address={cluster.address}", "cluster.shared_fs=true", "--json"]
    return commands.start("export", *words, "cluster.cpus_per_worker=1", *placed)


def wait_for_parts(folder: Path, more: int, process: subprocess.Popen[str]) -> None:
    wanted = len(list(folder.glob("part-*"))) + more
    while len(list(folder.glob("part-*"))) < wanted:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["parquet", "lance"])
def test_an_actor_a_node_and_the_driver_are_killed_and_every_row_is_there_once(
    kind: str, many: Path, small_artifact: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    folder = out / {"parquet": "embeddings", "lance": "fragments"}[kind]
    words = [f"artifact={small_artifact}", f"source.uri={many}", f"out={out}"]
    words += [f"format={kind}", f"part_rows={PART_ROWS}", "cluster.num_workers=2"]
    with nodes(cpus=3, count=2) as cluster:
        process = start(cluster, words)
        try:
            wait_for_parts(folder, 1, process)
            os.kill(cluster.processes("Embed")[-1], signal.SIGKILL)
            wait_for_parts(folder, 1, process)
            cluster.replace()
            wait_for_parts(folder, 1, process)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process = start(cluster, words)
            said, errors = process.communicate(timeout=400)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, errors
    manifest = open_manifest(str(out / "manifest"))
    assert json.loads(said.splitlines()[-1])["rows"] < manifest.num_rows
    ids = [int(one) for block in open_stored(str(out)).blocks() for one in block.ids]
    assert len(ids) == len(set(ids)) == manifest.num_rows
