"""Several settings of a head: which run they make, and which of them ships."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from jobs.adaptation import head_choice
from jobs.adaptation.training_sections import TrainedAdaptConfig
from jobs.setup import run_artifact
from jobs.training.run_config import PretrainConfig, build
from jobs.training.run_dir import RunDir
from models import artifact
from models.supervised.head import AttentiveHead, HeadCopies
from pipelines import schema
from pipelines.labels.labelled_data import LabelledData
from pipelines.stream.ledger import Ledger, Span

CLASSES = ("dark", "bright")


def given(**probe: Any) -> TrainedAdaptConfig:
    values = {"train": {"uri": "a"}, "test": {"uri": "b"}, "artifact": "c", "out": "d"}
    return TrainedAdaptConfig.model_validate(
        {**values, "probe": {"name": "attentive", **probe}, "optim": {"lr": 0.01}}
    )


def labelled() -> LabelledData:
    """Two samples of validation, then two of test, one of each class."""
    rows = {
        schema.SPLIT: ["val", "val", "test", "test"],
        schema.LABELS: [[0], [1], [0], [1]],
    }
    return LabelledData(pa.table(rows), CLASSES)


def run_of(config: TrainedAdaptConfig, small_artifact: str, out: str) -> PretrainConfig:
    start = artifact.load(small_artifact)
    return config.run_of(start, labelled(), num_steps=3, weights=None, out=out)


def test_settings_are_every_pair_and_one_pair_is_the_run_of_one_head(small_artifact: str) -> None:
    assert len(given().probe.settings) == 6
    several = run_of(given(lr_scales=[0.1, 1], weight_decays=0), small_artifact, "/out")
    assert several.method.head.copies == 2
    one = run_of(given(lr_scales=0.5, weight_decays=[0.2]), small_artifact, "/out")
    assert (one.optim.lr, one.optim.weight_decay) == (0.005, 0.2)
    # the same experiment as of a run from before there were several
    as_before = {"name": "finetune", "trained": "head", "label_smoothing": 0.0}
    method = one.method.model_dump(mode="json")
    assert as_before.items() <= method.items()
    assert set(method["head"]) == {"name", "task", "classes", "width", "num_heads"}
    assert not given(trained="all").probe.settings
    with pytest.raises(ValueError, match="one value or several different ones"):
        given(lr_scales=[1, 1])


def test_the_head_of_the_best_validation_score_ships_once(
    small_artifact: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = given(lr_scales=[0.1, 1, 10], weight_decays=0)
    settings = config.probe.settings
    run = RunDir(str(tmp_path))
    wanted = run_of(config, small_artifact, run.uri)
    method = build(wanted)
    encoder, heads, _ = method.ships()
    assert isinstance(heads, HeadCopies) and run_artifact.folder_of(heads) == "heads"
    for number, head in enumerate(heads.heads):
        head.linear.bias.data.fill_(number)
    run_artifact.write(
        run.path("heads"),
        run.uri,
        wanted,
        encoder,
        head=heads,
        step=3,
        ledger=Ledger(0, (Span(0, 1, 1),)),
        metrics={},
        commit=None,
    )
    assert head_choice.has_ended(run, 3) and head_choice.told_by(run, 3) == run.path("heads")

    right = np.array([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4], [0.4, 0.6]])
    answers = np.stack([1 - right, right, np.full((4, 2), 0.5)], 2)  # (N, C, K)
    told, about = head_choice.chosen_of(settings, run, wanted, labelled(), answers.reshape(4, -1))
    assert (told == right[2:]).all()
    assert about["chosen"] == {"lr_scale": 1.0, "weight_decay": 0.0}
    assert [one["val_top1"] for one in about["settings"]] == [0.0, 1.0, 0.5]
    assert "chosen of 3 settings by 2 validation samples" in capsys.readouterr().err
    shipped = artifact.load(run.path("artifact"))
    assert isinstance(shipped.head, AttentiveHead)
    assert shipped.head.linear.bias.tolist() == [1.0, 1.0]
    assert head_choice.told_by(run, 3) == run.path("artifact")
    assert not (tmp_path / "heads").exists()
    again = head_choice.chosen_of(settings, run, wanted, labelled(), right)
    assert (again[0] == told).all() and again[1] == about
