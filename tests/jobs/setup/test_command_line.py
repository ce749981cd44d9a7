"""Words and recipes become one checked configuration; what is wrong is one line."""

import json
from pathlib import Path

import pytest
import yaml

from jobs import preview
from jobs.adapt import AdaptConfig
from jobs.index import IndexConfig
from jobs.registering.registry_config import RegistryConfig
from jobs.retraining.retrain_sections import complete as complete_retraining
from jobs.search import SearchConfig
from jobs.setup import command_line
from jobs.setup.command_line import main, parse, to_yaml
from jobs.setup.failures import InputError
from jobs.setup.help_page import known_keys
from jobs.setup.words import idle_keys, leaves, recipe_names
from jobs.training.run_config import PretrainConfig, complete_pretrain, load_pretrain

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
        (["method.margin=0.5"], "method.margin has no effect with method.loss=nt_xent"),
        (["method.loss=triplet", "method.temperature=1"], "no effect with method.loss=triplet"),
        (["optim.betas=[0.5,0.9]"], "optim.betas has no effect with optim.name=sgd: leave it out"),
        (["optim.name=adamw", "optim.momentum=0.5"], "no effect with optim.name=adamw"),
        (["clip.as_frames=true", "clip.num_frames=8"], "no effect with clip.as_frames=true"),
        (
            ["views.placement=decode", "cluster.view_actors=2"],
            "cluster.view_actors has no effect with views.placement=decode",
        ),
        (
            ["method.name=cpc", "method.patches.shear=20"],
            "method.patches.shear has no effect with method.patches.warp=0",
        ),
        (["clip.fps=3", "clip.frame_stride=2"], "clip.frame_stride has no effect beside clip.fps"),
        (["optim.warmup_steps=3", "optim.warmup_fraction=0.1"], "has no effect beside"),
        (["out=/runs/${x}"], "out holds ${...}, which refers to another key"),
        (["seed=${seeds}"], "seed holds ${...}"),
        (["views.groups.global_crops.blurr.p=1"], "known key is views.groups.global_crops.blur.p"),
        (["views.groups.global_crops.scale=[0,1]"], "views.groups.global_crops.scale"),
        (["cluster.num_workers=-1"], "cluster.num_workers: input should be"),
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
        (
            ["encoder.name=resnet50", "encoder.width=16"],
            "encoder.width=16 has no effect on encoder.name=resnet50",
        ),
        (["--halp"], "unknown option --halp: there are --help"),
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


def test_a_recipe_may_hold_what_a_word_leaves_without_effect() -> None:
    parsed("method.loss=triplet", "optim.name=adamw")  # its temperature stays for other losses


def test_every_key_that_is_said_to_be_idle_exists_and_so_does_the_one_behind_it() -> None:
    words = {
        "simclr": ["method.loss=triplet", "views.placement=decode", "clip.as_frames=true"],
        "moco": ["method.head=linear", "optim.name=adamw"],
        "swav": ["optim.name=sgd"],
        "dino": ["method.teacher_warmup_fraction=0"],
        "cpc_v2": ["method.patches.warp=0"],
    }
    found = set()
    for name, chosen in words.items():
        config = parse(
            complete_pretrain,
            [f"method.name={name}", "source.uri=/a", "out=/b", "num_steps=1", *chosen],
        )
        known = {key.name for key in known_keys(type(config), config.model_dump())}
        for key, other in idle_keys(config):
            assert {key, other} <= known
            found.add(key)
    assert {"method.temperature", "optim.betas", "clip.fps", "method.hidden_dim"} <= found


def test_an_unknown_recipe_names_the_shipped_ones() -> None:
    with pytest.raises(InputError, match="simclr_small"):
        parse(complete_pretrain, ["simclr_smal", "source.uri=/a", "out=/b"])


def test_json_prints_one_object_and_nothing_else_that_a_library_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(_: PretrainConfig) -> dict[str, object]:
        print("(raylet) a worker died")
        return {"rows": 3, "result": "there"}

    assert main("x", "", complete_pretrain, run, [*WORDS, "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == {"rows": 3} and said.err == "(raylet) a worker died\n"


@pytest.mark.parametrize(
    ("recipe", "words", "void", "kept"),
    [
        ("num_epochs: 800", ["num_steps=3"], "num_epochs=800", {"num_steps": 3}),
        ("num_steps: 7", ["num_epochs=2"], "num_steps=7", {"num_epochs": 2}),
        ("num_epochs: 800", ["num_steps=null"], None, {"num_epochs": 800}),
        (
            "{num_steps: 1, encoder: {width: 16}}",
            ["encoder.name=convnext_atto"],
            "encoder.width=16",
            {"encoder.name": "convnext_atto"},
        ),
        (
            "{num_steps: 1, encoder: {norm: layer, width: 16}}",
            ["encoder.name=vit_tiny_small"],
            "encoder.norm=layer",
            {"encoder.width": 16},
        ),
        (
            "{num_steps: 1, encoder: {patch_size: 16, patch_stride: 12}}",
            ["encoder.patch_size=8"],
            "encoder.patch_stride=12",
            {"encoder.patch_stride": None},
        ),
        (
            "{num_steps: 1, encoder: {patch_size: 16, patch_stride: 12}}",
            ["encoder.patch_size=null"],
            "encoder.patch_stride=12",
            {"encoder.patch_size": None},
        ),
        ("{num_steps: 1, clip: {fps: 2}}", ["clip.frame_stride=8"], "clip.fps=2", {}),
        ("{num_steps: 1, clip: {frame_stride: 8}}", ["clip.fps=2"], "clip.frame_stride=8", {}),
        (
            "{num_steps: 1, optim: {warmup_steps: 9}}",
            ["optim.warmup_fraction=0.2"],
            "optim.warmup_steps=9",
            {"optim.warmup_steps": None},
        ),
        (
            "{num_steps: 1, method: {name: simclr, hidden_dim: 8, temperature: 0.3}}",
            ["method.name=moco", "method.hidden_dim=16"],
            None,
            {"method.temperature": 0.3},
        ),
        (
            "{num_steps: 1, method: {name: simclr, mining: hard}}",
            ["method.name=mae"],
            "method.mining=hard",
            {"method.name": "mae"},
        ),
        (
            "{num_steps: 1, method: {name: dino}, views: {groups: {local_crops: {count: 2}}}}",
            ["method.name=simclr"],
            "views.groups.local_crops.count=2",
            {"views.groups.global_crops.count": 2},
        ),
        (
            "{num_steps: 1, accumulate: 2, method: {name: mae}}",
            ["method.name=simclr"],
            "accumulate=2",
            {"accumulate": 1},
        ),
    ],
)
def test_a_word_replaces_what_it_excludes_in_the_recipe_and_says_so(
    recipe: str,
    words: list[str],
    void: str | None,
    kept: dict[str, object],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe)
    config = parse(complete_pretrain, [str(file), "source.uri=/data", "out=/out", *words])
    said = capsys.readouterr().err
    assert said == (f"{words[0]} takes the place of the recipe's {void}\n" if void else "")
    values = leaves(config.model_dump(mode="json"))
    assert kept.items() <= values.items()
    assert void is None or void not in [f"{key}={value}" for key, value in values.items()]


def test_what_a_recipe_says_of_keys_that_a_job_does_not_use_is_passed_over() -> None:
    config = parse(preview.complete, ["mae_small", "source.uri=/a", "out=/b.png"])
    assert config.optim == type(config.optim)()
    assert "optim" not in yaml.safe_load(to_yaml(config))


def test_an_empty_command_line_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("index", "", lambda values: (IndexConfig, values), _never, []) == 2
    assert capsys.readouterr().err.startswith("error: source.uri is missing: give source.uri=...")


WRITTEN = ["0010", "0101", "1.10", "2026_11_29", "1e5", "007", "yes", "on", "0x1F", "12:30", "@x"]


@pytest.mark.parametrize("text", WRITTEN)
def test_a_text_is_kept_as_it_was_written(text: str, tmp_path: Path) -> None:
    words = ["promote", "registry=/r", f"name={text}", f"alias={text}", f"reason={text}"]
    taken = parse(lambda values: (RegistryConfig, values), [*_promoting(words), "version=3"])
    assert (taken.name, taken.alias, taken.reason) == (text, text, text)
    assert taken.version == 3
    printed = tmp_path / "printed.yaml"
    printed.write_text(to_yaml(taken))
    assert parse(lambda values: (RegistryConfig, values), [str(printed)]) == taken
    if text == "@x":  # which begins no plain value of YAML
        return
    by_hand = tmp_path / "by_hand.yaml"
    by_hand.write_text(f"action: promote\nregistry: /r\nname: {text}\nversion: 3\n")
    assert parse(lambda values: (RegistryConfig, values), [str(by_hand)]).name == text


def _promoting(words: list[str]) -> list[str]:
    return [f"action={words[0]}", *words[1:]]


def test_texts_in_a_section_a_list_or_quotes_are_kept_and_null_is_none() -> None:
    def of_search(*words: str) -> SearchConfig:
        given = ["embeddings=/e", *words]
        return parse(lambda values: (SearchConfig, values), given)

    assert of_search("artifact=/a", "text=no").text == ("no",)
    assert of_search("artifact=/a", "text=[no,1.10,'a, b']").text == ("no", "1.10", "a, b")
    listed = ["artifact=/a", "train.uri=/t", "columns.label=0010", "columns.group=null"]
    adapted = parse(lambda values: (AdaptConfig, values), listed)
    assert (adapted.columns.label, adapted.columns.group) == ("0010", None)
    quoted = ["promote", "registry=/r", 'name="007"', "version=1"]
    assert parse(lambda values: (RegistryConfig, values), _promoting(quoted)).name == "007"


def test_slots_are_those_that_were_asked_for() -> None:
    for slot in ("0009", "0010", "1.10", "2026_11_29"):
        words = ["simclr_small", "num_steps=1", "registry=/r", "name=007", f"slot={slot}"]
        config = parse(complete_retraining, [*words, "source.uri=/a"])
        assert (config.slot, config.name) == (slot, "007")
