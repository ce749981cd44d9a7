import json
from pathlib import Path

import pytest
import yaml

from jobs.setup import command_line
from jobs.setup.command_line import InputError, main, parse, recipe_names, to_yaml
from jobs.training.run_config import PretrainConfig, complete_pretrain, load_pretrain
from pipelines.corpus.manifest import Manifest, Part
from pipelines.stream.plan import Plan

WORDS = ["simclr_small", "source.uri=/data", "out=/out", "num_steps=10"]


def parsed(*words: str) -> PretrainConfig:
    config = parse(complete_pretrain, [*WORDS, *words])
    assert isinstance(config, PretrainConfig)
    return config


@pytest.mark.parametrize("recipe", recipe_names())
def test_every_shipped_recipe_is_valid_and_round_trips(recipe: str) -> None:
    words = [recipe, "source.uri=/data", "out=/out"]
    raw = yaml.safe_load(
        (Path(command_line.__file__).parents[1] / "recipes" / f"{recipe}.yaml").read_text()
    )
    config = parse(
        complete_pretrain,
        words if {"num_steps", "num_epochs"} & raw.keys() else [*words, "num_steps=1"],
    )
    assert load_pretrain(yaml.safe_load(to_yaml(config))) == config


def test_print_config_loads_back_to_an_equal_config(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = [
        *WORDS,
        "method.temperature=0.25",
        "views.groups.global_crops.scale=[0.3,1.0]",
        "encoder.width=8",
    ]
    assert main("pretrain", "", complete_pretrain, _never, [*words, "--print-config"]) == 0
    recipe = tmp_path / "printed.yaml"
    recipe.write_text(capsys.readouterr().out)
    assert parse(complete_pretrain, [str(recipe)]) == parse(complete_pretrain, words)


def _never(config: object) -> dict[str, object]:
    raise AssertionError("started")


def test_later_words_win_over_the_recipe_and_the_method_s_views() -> None:
    config = parsed(
        "views.groups.global_crops.color_jitter.hue=0.05", "views.size=48", "optim.lr=0.5"
    )
    group = config.views.groups["global_crops"]
    assert group.color_jitter is not None
    assert (
        group.color_jitter.hue,
        group.color_jitter.brightness,
        config.views.size,
        config.optim.lr,
    ) == (
        0.05,
        0.4,
        48,
        0.5,
    )


def test_help_shows_the_keys_of_the_chosen_method(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("pretrain", "", complete_pretrain, _never, ["method.name=mae", "--help"]) == 0
    text = capsys.readouterr().out
    assert (
        "method.mask_ratio" in text
        and "method.temperature" not in text
        and "cluster.num_workers" in text
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["num_stepz=3"], "unknown key num_stepz: the nearest known key is num_steps"),
        (
            ["optim.learning_rate=1"],
            "unknown key optim.learning_rate: the nearest known key is optim",
        ),
        (["optim.lr=-1"], "optim.lr: input should be greater than 0, got -1"),
        (["method.temperature=0"], "method.temperature"),
        (["num_epochs=2"], "exactly one of num_steps and num_epochs, got both"),
        (["num_steps=null"], "exactly one of num_steps and num_epochs, got neither"),
        (
            ["global_batch_size=100", "cluster.num_workers=3"],
            "does not divide among cluster.num_workers 3",
        ),
        (
            ["global_batch_size=100", "cluster.num_workers=2..4"],
            "does not divide among cluster.num_workers 3",
        ),
        (["cluster.num_workers=3..2"], "num_workers must be MIN..MAX with MIN <= MAX, got 3..2"),
        (["cluster.num_workers=0"], "cluster.num_workers"),
        (["accumulate=2"], "would change the objective of simclr"),
        (["method.name=simclrr"], "method.name simclrr is unknown: choose one of"),
        (["encoder.name=resnet19"], "nearest: resnet18"),
        (["encoder.name=resnet50"], "encoder.width=16 has no effect on encoder.name=resnet50"),
        (["other_recipe"], "one recipe at most"),
        (["optim=3"], "optim"),
        (["views=32"], "views 32 must hold keys: did you mean views.size=32"),
        (
            ["views.groups.local_crops.count=6"],
            "unknown key views.groups.local_crops: method.name=simclr takes global_crops",
        ),
        (
            ["views.groups.count=6"],
            "unknown key views.groups.count: method.name=simclr takes global_crops",
        ),
        (
            ["method.name=dino", "method.temperature=null", "views.groups.local_crop.blur.p=1"],
            "takes global_crops_1, global_crops_2, local_crops, nearest views.groups.local_crops",
        ),
        (["seed=[1"], "seed=[1 is no YAML value"),
    ],
)
def test_wrong_words_exit_2_with_one_clear_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("pretrain", "", complete_pretrain, _never, [*WORDS, *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert message in captured.err


def test_an_unknown_recipe_names_the_shipped_ones() -> None:
    with pytest.raises(InputError, match="simclr_small"):
        parse(complete_pretrain, ["simclr_smal", "source.uri=/a", "out=/b"])


def test_json_prints_one_object_as_the_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(
            "x",
            "",
            complete_pretrain,
            lambda config: {"rows": 3, "result": "there"},
            [*WORDS, "--json"],
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"rows": 3}


def test_fingerprint_ignores_cluster_placement_and_cadence() -> None:
    same = parsed(
        "cluster.num_workers=2",
        "views.placement=decode",
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


def test_steps_follow_from_epochs_and_corpus() -> None:
    config = parsed("num_steps=null", "num_epochs=2.5", "global_batch_size=64")
    manifest = Manifest("/m", 1, "/data", (Part("a", (600, 400)),))
    assert config.steps(Plan.fresh(manifest, seed=0)) == 2500 // 64
