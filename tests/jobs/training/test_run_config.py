"""What a run is made of: which words make it another experiment, and how many steps follow."""

import pytest

from jobs.setup.command_line import InputError, parse
from jobs.training.run_config import PretrainConfig, complete_pretrain, load_pretrain
from pipelines.corpus.manifest import Manifest, Part
from pipelines.stream.plan import Plan

WORDS = ["simclr_small", "source.uri=/data", "out=/out", "num_steps=10"]


def parsed(*words: str) -> PretrainConfig:
    config = parse(complete_pretrain, [*WORDS, *words])
    assert isinstance(config, PretrainConfig)
    return config


def test_fingerprint_ignores_cluster_placement_and_cadence() -> None:
    same = parsed(
        "cluster.num_workers=2",
        "views.placement=worker",
        "views.compile=true",
        "checkpoint.keep=5",
        "log.every_steps=1",
        "num_steps=99",
    )
    assert same.fingerprint() == parsed().fingerprint()
    for word in (
        "seed=1",
        "optim.lr=0.2",
        "method.temperature=0.3",
        "views.size=48",
        "encoder.width=8",
        "source.uri=/b",
    ):
        assert parsed(word).fingerprint() != parsed().fingerprint()


def test_fingerprint_ignores_how_far_a_bank_may_grow() -> None:
    bank = "method.name=instance_discrimination"
    assert parsed(bank, "method.max_rows=5").fingerprint() == parsed(bank).fingerprint()
    assert parsed(bank, "method.num_noise=5").fingerprint() != parsed(bank).fingerprint()


def test_a_run_written_before_pooling_was_a_setting_is_the_same_experiment() -> None:
    values = parsed().model_dump(mode="json")
    assert values["encoder"].pop("pooling") == "auto"
    before = load_pretrain(values)
    assert before.encoder == parsed().encoder
    assert before.experiment() == parsed().experiment()
    assert not [key for key in parsed().experiment() if "pooling" in key]
    chosen = parsed("encoder.pooling=max")
    assert chosen.experiment()["encoder.pooling"] == "max"
    assert chosen.fingerprint() != parsed().fingerprint()


def test_a_name_that_asks_for_weights_is_taken_for_its_network_and_said_so_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = "timm/vit_tiny_patch16_224.augreg_in21k"
    words = ["mae_small", "source.uri=/data", "out=/out", "num_steps=1", f"encoder.name={name}"]
    config = parse(complete_pretrain, words)
    assert isinstance(config, PretrainConfig)
    assert config.encoder.name == "vit_tiny_patch16_224"
    said = capsys.readouterr().err
    assert said.count("no weights are loaded") == 1 and name in said
    load_pretrain(config.model_dump(mode="json"))
    assert capsys.readouterr().err == ""


def test_steps_follow_from_epochs_and_corpus() -> None:
    config = parsed("num_steps=null", "num_epochs=2.5", "global_batch_size=64")
    manifest = Manifest("/m", 1, "/data", (Part("a", (600, 400)),))
    assert config.steps(Plan.fresh(manifest, seed=0)) == 2500 // 64


def test_a_prefix_with_and_without_a_slash_is_one_experiment() -> None:
    one, other = (parsed(f"source.uri=s3://bucket/images{end}") for end in ("", "/"))
    assert one.experiment() == other.experiment()
    assert one.fingerprint() == other.fingerprint()


def test_an_encoder_that_stays_as_it_starts_needs_weights() -> None:
    words = ("method.name=clip", "method.freeze_encoder=true")
    with pytest.raises(InputError, match=r"keep a random encoder: give encoder\.weights"):
        parsed(*words)
    frozen = parsed(*words, "encoder.weights=a/artifact")
    assert frozen.fingerprint() != parsed(words[0], "encoder.weights=a/artifact").fingerprint()
    assert not [key for key in parsed(words[0]).experiment() if "freeze" in key]
