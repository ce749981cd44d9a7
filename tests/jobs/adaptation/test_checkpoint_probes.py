"""A probe over a run's checkpoints: which one health without labels would have chosen."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from jobs.adapt import AdaptConfig, adapt
from jobs.adaptation.checkpoint_probes import finding, rank_correlation
from jobs.setup.command_line import InputError, parse
from jobs.training import checkpoints
from jobs.training.run_config import complete_pretrain
from jobs.training.run_dir import RunDir
from jobs.training.state import TrainState
from pipelines.stream.ledger import Ledger, Span
from tests.commands import TINY

STEPS = {5: 3.0, 10: 4.0, 15: 5.0}


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run that kept three checkpoints, with a look at each but the last."""
    run = RunDir(str(tmp_path / "run"))
    words = [*TINY, "source.uri=/images", f"out={run.uri}", "num_steps=15"]
    recipe = parse(complete_pretrain, words)
    run.write_config(recipe)
    state = TrainState(recipe, torch.device("cpu"), Ledger(0, (Span(0, 2, 1),)))
    lines = []
    for step, rank in STEPS.items():
        state.step = step
        torch.nn.init.normal_(state.method.encoder.get_parameter("stem.0.weight"))
        checkpoints.write_to_series(run.uri, step, state.state_dict(), state.ledger())
        look = {"health_step": step, "health_rankme": rank} if step < 15 else {}
        lines.append({"step": step, "loss": 1.0, **look})
    run.write_metrics(0, 1, lines)
    return run


def config(run: RunDir, folder: Path) -> AdaptConfig:
    values = {"artifact": run.uri, "every_checkpoint": True, "probe": {"k": 3}}
    sets = {name: {"uri": str(folder / name)} for name in ("train", "test")}
    return AdaptConfig.model_validate({**values, **sets})


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_every_checkpoint_is_probed_beside_its_rank(
    run: RunDir, image_folder: Path, tmp_path: Path
) -> None:
    for scene in ("scene0", "scene1"):
        images = sorted((image_folder / scene).iterdir())
        for name, some in (("train", images[:12]), ("test", images[12:20])):
            (tmp_path / name / scene).mkdir(parents=True)
            for image in some:
                shutil.copy(image, tmp_path / name / scene)
    told = adapt(config(run, tmp_path))
    rows = told["checkpoints"]
    assert [row["step"] for row in rows] == list(STEPS)
    assert [(row["rankme"], row["rankme_step"]) for row in rows] == [(3, 5), (4, 10), (4, 10)]
    assert len({row["artifact_digest"] for row in rows}) == 3
    place = Path(run.path("checkpoint-probes"))
    written = json.loads((place / "checkpoints.json").read_bytes())
    assert written["checkpoints"] == rows and written["baseline"] == "untrained"
    page = (place / "checkpoints.html").read_text()
    assert "data:image/png;base64" in page and "RankMe" in page
    assert told["result"].endswith(str(place / "checkpoints.html"))


def test_the_correlation_is_of_ranks_and_needs_three() -> None:
    assert rank_correlation([0.1, 0.2, 0.9], [1, 2, 3]) == pytest.approx(1)
    assert rank_correlation([0.9, 0.2, 0.1], [1, 20, 300]) == pytest.approx(-1)
    assert rank_correlation([0.1, 0.2], [1, 2]) is None
    assert rank_correlation([0.1, 0.1, 0.1], [1, 2, 3]) is None


def test_the_finding_names_what_health_would_have_chosen() -> None:
    told = {"probe": "knn", "checkpoints": [0, 0, 0], "rank_correlation": 0.5}
    best, healthiest = {"step": 10, "top1": 0.5}, {"step": 5, "top1": 0.25}
    assert finding(told, best, healthiest) == (
        "knn is best at step 10 (50.0%), RankMe is highest at step 5 (25.0%); rank correlation"
        " 0.50 of 3 checkpoints"
    )
    assert "no look" in finding(told, best, None)


def test_a_run_without_a_whole_checkpoint_is_refused(run: RunDir, tmp_path: Path) -> None:
    shutil.rmtree(run.path("series"))
    with pytest.raises(InputError, match="has no whole checkpoint to probe"):
        adapt(config(run, tmp_path))
