"""Methods that keep something of every sample, on a corpus that grows while the run is stopped."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.index import IndexConfig, index
from jobs.pretrain import pretrain
from jobs.setup.command_line import parse
from jobs.setup.failures import InputError
from jobs.training import checkpoints
from jobs.training.run_config import PretrainConfig, complete_pretrain
from jobs.training.run_dir import RunDir
from pipelines.corpus.manifest import open_manifest

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.slow]

SMALL = [
    *(
        "deepcluster_small",
        "method.num_clusters=5",
        "method.pca_dim=8",
        "method.first_rows=40",
        "encoder.width=8",
    ),
    *("views.size=16", "global_batch_size=40", "log.every_steps=1", "cluster.max_failures=0"),
]


def config(*words: str) -> PretrainConfig:
    made = parse(complete_pretrain, [*SMALL, *words])
    assert isinstance(made, PretrainConfig)
    return made


def method_state(out: str) -> dict[str, Any]:
    name = checkpoints.committed(f"{out}/checkpoints")
    assert name is not None
    saved = torch.load(Path(out, "checkpoints", name, checkpoints.STATE), weights_only=True)
    state: dict[str, Any] = saved["method"]
    return state


def test_a_resumed_run_clusters_what_has_joined_its_manifest(
    image_folder: Path, tmp_path: Path
) -> None:
    source, manifest, out = tmp_path / "source", str(tmp_path / "manifest"), str(tmp_path / "run")
    shutil.copytree(image_folder, source)
    shutil.rmtree(source / "scene7")
    listing = IndexConfig.model_validate({"source": {"uri": str(source)}, "out": manifest})
    index(listing)
    words = [f"source.uri={manifest}", f"out={out}"]

    with pytest.raises(InputError, match=r"its 175 rows are more than method\.max_rows=174"):
        pretrain(config(*words, "num_steps=3", "method.max_rows=174"))
    assert not (tmp_path / "run" / "config.yaml").exists()

    pretrain(config(*words, "num_steps=3", "method.max_rows=175"))
    state = method_state(out)
    assert int(state["clusterings"]) == 1 and int(state["features.filled"].sum()) == 120

    shutil.copytree(image_folder / "scene7", source / "scene7")
    shutil.rmtree(source / "scene0")
    index(listing)
    assert (open_manifest(manifest).num_rows, open_manifest(manifest).num_stored) == (175, 200)
    with pytest.raises(InputError, match=r"its 200 rows are more than method\.max_rows=175"):
        pretrain(config(*words, "num_steps=8", "method.max_rows=175"))
    more = ("num_steps=8", "method.max_rows=200", "cluster.num_workers=2")
    result = pretrain(config(*words, *more))  # the same experiment
    lines = [json.loads(line) for line in Path(out, "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 9)) and lines[0]["loss"] == 0
    assert all(line["loss"] > 0 for line in lines[1:]) and lines[-1]["stability"] > 0

    state = method_state(out)
    assert int(state["clusterings"]) == 2 and int(state["epoch"]) == 1
    clustered = state["labels.filled"].nonzero().squeeze(1)
    assert set(state["labels.rows"][clustered, 0].tolist()) == set(range(5))
    # The running epoch went on with what was left of it and what was new: rows from 175 on.
    assert set(range(175, 200)) < set(clustered.tolist()) and len(state["features.filled"]) == 200
    # every sample of the epoch once
    assert len(clustered) == 320 - int(state["features.filled"].sum())
    assert RunDir(out).committed_step() == result["steps"] == 8
