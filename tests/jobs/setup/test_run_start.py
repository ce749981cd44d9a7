"""A run that starts from weights keeps them, and everything after it knows them."""

import json
import subprocess
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from jobs.artifact import MakeArtifactConfig, make
from jobs.registering.lineage import lineage_of
from jobs.setup import run_artifact, run_start
from jobs.setup.command_line import parse
from jobs.setup.failures import InputError
from jobs.training import checkpoints
from jobs.training.run_config import PretrainConfig, complete_pretrain
from jobs.training.run_dir import TOKENIZER, RunDir
from jobs.training.state import TrainState
from models import artifact
from models.encoders.factory import build_encoder
from pipelines.registry.model_versions import register
from pipelines.registry.moves import promote
from pipelines.registry.registered_model import RegisteredModel
from pipelines.registry.signature import Signature
from pipelines.stream.ledger import Ledger, Span
from tests.commands import ROOT, TINY
from tests.small_methods import make_batch


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file of weights that no seed gives, without the last norm."""
    state = build_encoder(config(tmp_path).encoder, 16).state_dict()
    del state["stages.3.1.bn2.weight"]
    for value in state.values():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5)
    prefixed = {f"module.backbone.{name}": value for name, value in state.items()}
    file = tmp_path / "weights.pth"
    torch.save({"state_dict": prefixed}, file)
    return file


def config(folder: Path, *words: str) -> PretrainConfig:
    given = [*TINY, "source.uri=/images", f"out={folder}/run", "num_steps=10", *words]
    return parse(complete_pretrain, given)


def state_of(given: PretrainConfig) -> TrainState:
    return TrainState(given, torch.device("cpu"), Ledger(0, (Span(0, 2, 1),)))


def begin(given: PretrainConfig) -> RunDir:
    """As `pretrain` does before its first step."""
    run = RunDir(given.out)
    start = run_start.prepare(given, run)
    if start is not None:
        run_start.keep(start, given, run)
    run.write_config(given)
    return run


def save_checkpoint(run: RunDir, state: TrainState, step: int) -> None:
    state.step = step
    folder = Path(run.path(checkpoints.FOLDER, checkpoints.name_of(step)))
    folder.mkdir(parents=True)
    checkpoints.write(str(folder), state.state_dict(), state.ledger())
    run.write_metrics(0, 1, [{"step": step, "loss": 1.0}])


def encoder_of(state: TrainState) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in state.method.encoder.state_dict().items()}


def test_the_run_says_what_it_took_and_keeps_it(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = config(tmp_path, f"encoder.weights={weights}")
    run = begin(given)
    line = capsys.readouterr().err
    assert f"encoder.weights {weights} below state_dict.module.backbone" in line
    assert "99 tensors taken, 0 resampled, 1 missing (stages.3.1.bn2.weight), 0 left over" in line
    told = json.loads(Path(run.path("start", "weights.json")).read_bytes())
    assert len(told["taken"]) == 99 and told["missing"].keys() == {"stages.3.1.bn2.weight"}
    loaded = artifact.load(run.path("start"))
    for key, value in encoder_of(state_of(given)).items():
        assert torch.equal(loaded.encoder.state_dict()[key], value), key


def test_a_run_of_texts_keeps_its_start_with_the_tokens_that_it_reads(tmp_path: Path) -> None:
    of_texts = ["simcse_small", "source.uri=/texts", f"out={tmp_path}/run", "num_steps=10"]
    first = parse(complete_pretrain, of_texts)
    begun = tmp_path / "first"
    artifact.save(
        str(begun),
        build_encoder(first.encoder, first.views.size),
        config={"encoder": first.encoder.model_dump(mode="json"), "seed": 0},
        preprocess={**first.preprocess(), "tokenizer": "{}"},
        provenance={},
    )
    given = parse(complete_pretrain, [*of_texts, f"encoder.weights={begun}"])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / TOKENIZER).write_text("{}")
    run = begin(given)
    kept = artifact.load(run.path("start"))
    assert kept.of_texts is not None and kept.of_texts.tokenizer == "{}"


def test_a_resumed_run_and_its_artifact_know_the_start_after_the_file_is_gone(
    tmp_path: Path, weights: Path
) -> None:
    given = config(tmp_path, f"encoder.weights={weights}", "start.pull=0.1")
    run = begin(given)
    state = state_of(given)
    began = encoder_of(state)
    with torch.no_grad():
        for value in state.method.parameters():
            value.add_(0.1)
    save_checkpoint(run, state, 7)
    weights.unlink()
    assert run_start.prepare(given, run) is None
    for key, value in encoder_of(state_of(given)).items():
        assert torch.equal(value, began[key]), key
    out = str(tmp_path / "made")
    make(MakeArtifactConfig(run=run.uri, step=7, out=out))
    made = artifact.load(out)
    assert made.baseline == "starting weights" and made.config["start"]["pull"] == 0.1
    baseline = artifact.untrained(out).encoder.state_dict()
    assert all(torch.equal(baseline[key], value) for key, value in began.items())
    assert not torch.equal(made.encoder.state_dict()["stem.0.weight"], began["stem.0.weight"])
    (tmp_path / "made" / "start.safetensors").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"start\.safetensors is not the one that artifact\.json"):
        artifact.untrained(out)


def test_a_run_goes_on_from_a_checkpoint_of_timm_its_encoder_waiting_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "resnet18.safetensors"
    network = timm.create_model("resnet18", num_classes=10)
    safetensors.torch.save_file(network.state_dict(), file)
    words = [
        "encoder.name=resnet18",
        "encoder.width=64",
        f"encoder.weights={file}",
        "start.frozen_steps=1",
    ]
    given = config(tmp_path, *words, "start.layer_decay=0.65", "start.pull=0.1")
    begin(given)
    told = "100 tensors taken, 0 resampled, 0 missing, 2 left over; 100.0% of the encoder's values"
    assert told in capsys.readouterr().err
    state = state_of(given)
    theirs = network.state_dict()["conv1.weight"]
    ours = state.method.encoder.get_parameter("network.conv1.weight")
    head = next(state.method.get_submodule("projection_head").parameters())
    for step in range(2):
        before = head.detach().clone()
        state.begin_step(10)
        state.backward(make_batch("simclr"), synchronise=True)
        state.update(10)
        assert torch.equal(ours, theirs) == (step == 0)
        assert not torch.equal(head, before)


def test_weights_are_part_of_the_experiment_and_random_ones_are_as_before(
    tmp_path: Path, weights: Path
) -> None:
    plain = config(tmp_path)
    assert not [key for key in plain.experiment() if "weights" in key or key.startswith("start.")]
    given = config(tmp_path, f"encoder.weights={weights}", "start.frozen_steps=3")
    changed = given.experiment()
    assert changed["encoder.weights"] == str(weights) and changed["start.frozen_steps"] == 3
    assert given.fingerprint() != plain.fingerprint()
    share = config(tmp_path, f"encoder.weights={weights}", "encoder.min_share=0.5")
    assert share.experiment() == config(tmp_path, f"encoder.weights={weights}").experiment()


def test_a_file_put_right_before_the_first_step_is_read_again(
    tmp_path: Path, weights: Path
) -> None:
    given = config(tmp_path, f"encoder.weights={weights}")
    begin(given)
    torch.save(build_encoder(given.encoder, 16).state_dict(), weights)
    assert run_start.prepare(given, RunDir(given.out)) is not None


def test_an_alias_is_followed_once_and_recorded_by_its_version(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = RegisteredModel(str(tmp_path / "registry"), "encoder")
    by = Signature.now("test")
    for version, value in enumerate((0.1, 0.2), 1):
        source = str(tmp_path / f"artifact{version}")
        plain = config(tmp_path)
        encoder = build_encoder(plain.encoder, 16)
        torch.nn.init.constant_(encoder.get_parameter("stem.0.weight"), value)
        kept = {"encoder": plain.encoder.model_dump(), "seed": 0}
        artifact.save(source, encoder, config=kept, preprocess=plain.preprocess(), provenance={})
        register(model, source, lineage={}, metrics={}, by=by)
    promote(model, "champion", 1, by=by)
    given = config(tmp_path, f"encoder.weights={model.uri}@champion")
    run = begin(given)
    place = model.version(1, "artifact")
    assert f"{model.uri}@champion is version 1: taking {place}" in capsys.readouterr().err
    save_checkpoint(run, state_of(given), 7)
    promote(model, "champion", 2, by=by)
    begin(given)
    assert torch.all(encoder_of(state_of(given))["stem.0.weight"] == torch.tensor(0.1))
    out = str(tmp_path / "made")
    make(MakeArtifactConfig(run=run.uri, step=7, out=out))
    assert run_artifact.describe(out)["start"]["weights"] == place
    lineage = lineage_of(out, model, None)
    assert lineage["parent"]["registered"] == f"{model.uri}@1"
    assert lineage["manifest_versions"] == [2]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    assert (lineage["commit"] or "").removesuffix("+changes") == commit.stdout.strip()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["encoder.weights=/nowhere.pth"], r"encoder\.weights /nowhere\.pth does not exist"),
        (["start.pull=0.1"], r"start\.pull has no effect with encoder\.weights=null"),
        (["encoder.min_share=0.1"], r"encoder\.min_share has no effect with encoder\.weights"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        begin(config(tmp_path, *words))
