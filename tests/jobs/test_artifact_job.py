"""jobs.artifact: any kept checkpoint becomes an artifact, and a job that is given a run finds its
own."""

from pathlib import Path

import pytest
import torch
from torchvision.models import resnet18

from jobs.artifact import AdoptConfig, MakeArtifactConfig, complete, make
from jobs.setup import run_artifact
from jobs.setup.command_line import parse
from jobs.setup.failures import InputError
from jobs.training import checkpoints
from jobs.training.run_config import PretrainConfig, complete_pretrain
from jobs.training.run_dir import RunDir
from jobs.training.state import TrainState
from models import artifact
from pipelines.stream.ledger import Ledger, Span
from tests.commands import TINY


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run that was stopped at step 13, with the checkpoints of two steps and one that is torn."""
    run = RunDir(str(tmp_path / "run"))
    words = [*TINY, "source.uri=/images", f"out={run.uri}", "num_steps=13"]
    config = parse(complete_pretrain, words)
    assert isinstance(config, PretrainConfig)
    run.write_config(config)
    plan = Ledger(0, (Span(0, 2, 1),))
    state = TrainState(config, torch.device("cpu"), plan)
    for step in (7, 13, 20):
        state.step = step
        with torch.no_grad():
            for weight in state.method.encoder.parameters():
                weight.add_(0.01)
        folder = Path(run.path(checkpoints.FOLDER, checkpoints.name_of(step)))
        folder.mkdir(parents=True)
        checkpoints.write(str(folder), state.state_dict(), state.ledger())
    (folder / checkpoints.STATE).write_bytes(b"torn")
    lines = [{"step": step, "loss": step / 2, "health_rankme": float("nan")} for step in (7, 13)]
    run.write_metrics(0, 0, lines)
    return run


def config(run: RunDir, out: str, step: int | None = None) -> MakeArtifactConfig:
    return MakeArtifactConfig(run=run.uri, out=out, step=step)


def test_the_newest_whole_checkpoint_becomes_the_artifact_that_a_run_is_found_by(
    run: RunDir,
) -> None:
    with pytest.raises(InputError, match=rf"jobs\.artifact run={run.uri} out={run.uri}/artifact"):
        run_artifact.find(run.uri)
    made = make(config(run, run.path("artifact")))
    assert made["step"] == 13
    assert run_artifact.find(run.uri) == run_artifact.find(made["artifact"]) == made["artifact"]
    loaded = artifact.load(made["artifact"])
    assert loaded.digest == made["artifact_digest"]
    assert loaded.provenance["num_steps"] == 13
    assert loaded.provenance["manifest_version"] == 2
    assert loaded.provenance["samples_seen"] == 13 * 32
    assert loaded.provenance["metrics"] == {"step": 13, "loss": 6.5, "health_rankme": None}
    state = torch.load(Path(run.path("checkpoints", "step-000000013", "state.pt")))
    weight = next(name for name, _ in loaded.encoder.named_parameters())
    assert torch.equal(loaded.encoder.state_dict()[weight], state["method"][f"encoder.{weight}"])
    assert make(config(run, run.path("artifact"))) == made


def test_a_chosen_step_becomes_an_artifact_of_its_own(run: RunDir, tmp_path: Path) -> None:
    out = str(tmp_path / "seven")
    assert make(config(run, out, step=7))["step"] == 7
    assert artifact.load(out).provenance["metrics"]["loss"] == 3.5
    with pytest.raises(InputError, match="has no step 20: whole checkpoints there are: 7, 13"):
        make(config(run, str(tmp_path / "other"), step=20))
    with pytest.raises(InputError, match="holds an artifact of step 7"):
        make(config(run, out, step=13))
    with pytest.raises(InputError, match="is no artifact and not empty"):
        make(config(run, run.uri, step=13))
    with pytest.raises(InputError, match="out /proc/nowhere cannot be written"):
        make(config(run, "/proc/nowhere", step=13))


def test_a_checkpoint_that_stays_becomes_an_artifact_beside_the_rolling_ones(
    run: RunDir, tmp_path: Path
) -> None:
    words = [*TINY, "source.uri=/images", f"out={run.uri}", "num_steps=13"]
    recipe = parse(complete_pretrain, [*words, "checkpoint.keep_every_steps=5"])
    assert [step for step in range(1, 14) if recipe.checkpoint.stays(step)] == [5, 10]
    state = TrainState(recipe, torch.device("cpu"), Ledger(0, (Span(0, 2, 1),)))
    for step, weight in ((5, 0.1), (10, 0.2), (5, 0.3)):  # a step that was made again counts
        state.step = step
        torch.nn.init.constant_(state.method.encoder.get_parameter("stem.0.weight"), weight)
        checkpoints.write_to_series(run.uri, step, state.state_dict(), state.ledger())
    assert list(checkpoints.whole(run.uri)) == [5, 7, 10, 13]
    out = str(tmp_path / "five")
    make(config(run, out, step=5))
    made = artifact.load(out)
    assert torch.all(made.encoder.get_parameter("stem.0.weight") == torch.tensor(0.3))
    assert made.provenance["num_steps"] == 5
    Path(run.path("series", "step-000000010", "state.pt")).write_bytes(b"torn")
    assert list(checkpoints.whole(run.uri)) == [5, 7, 13]

    with pytest.raises(InputError, match=r"is a checkpoint: .*run=.*/run step=5 out=.*artifact-5"):
        run_artifact.find(run.path("series", "step-000000005"))


@pytest.mark.parametrize(
    ("below", "words"),
    [
        ("checkpoints/step-000000007", "is a checkpoint: .*step=7 out=.*artifact-7"),
        ("checkpoints", "holds the checkpoints of a run"),
        ("metrics", "holds no artifact.json"),
    ],
)
def test_what_is_no_artifact_is_refused_with_the_command_that_makes_one(
    run: RunDir, below: str, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        run_artifact.find(run.path(below))


def adopted(out: Path, weights: Path, **preprocess: object) -> AdoptConfig:
    words = ["encoder.name=torchvision:resnet18", f"encoder.weights={weights}", f"out={out}"]
    words += [f"preprocess.{name}={value}" for name, value in preprocess.items()]
    config = parse(complete, words)
    assert isinstance(config, AdoptConfig)
    return config


def test_weights_from_elsewhere_become_an_artifact_that_sees_what_they_saw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    network = resnet18(weights=None).eval()
    torch.save(network.state_dict(), tmp_path / "w.pth")
    made = make(adopted(tmp_path / "out", tmp_path / "w.pth", image_size=64))
    said = "100 tensors taken, 0 resampled, 0 missing, 2 left over; 100.0%"
    assert said in capsys.readouterr().err
    loaded = artifact.load(made["artifact"])
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    shown = loaded.preprocess(images)
    network.fc = torch.nn.Identity()
    torch.testing.assert_close(loaded(shown), network(shown))
    assert make(adopted(tmp_path / "out", tmp_path / "w.pth", image_size=64)) == made
    torch.save({"module.fc.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="fewer"):
        make(adopted(tmp_path / "new", tmp_path / "other.pth"))
    torch.save(network.state_dict(), tmp_path / "again.pth")
    with pytest.raises(InputError, match=r"holds an artifact of step 0 of .*w\.pth: choose"):
        make(adopted(tmp_path / "out", tmp_path / "again.pth"))
