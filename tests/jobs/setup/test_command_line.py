import json
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml

from jobs import preview
from jobs.adapt import AdaptConfig
from jobs.artifact import MakeArtifactConfig
from jobs.demo import DemoConfig
from jobs.export import ExportConfig
from jobs.index import IndexConfig
from jobs.pack import PackConfig
from jobs.report import ReportConfig
from jobs.setup import command_line
from jobs.setup.command_line import InputError, main, parse, recipe_names, to_yaml
from jobs.setup.help_page import help_page, is_under, known_keys
from jobs.setup.words import idle_keys, leaves, read, recipes_for
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


CONFIGS = {
    "pretrain": complete_pretrain,
    "preview": preview.complete,
    "index": lambda values: (IndexConfig, values),
    "pack": lambda values: (PackConfig, values),
    "artifact": lambda values: (MakeArtifactConfig, values),
    "export": lambda values: (ExportConfig, values),
    "adapt": lambda values: (AdaptConfig, values),
    "report": lambda values: (ReportConfig, values),
    "demo": lambda values: (DemoConfig, values),
}


def help_of(verb: str, *words: str, columns: int = 80) -> str:
    kind, values = CONFIGS[verb](leaves_to_tree(words))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(columns))
        return help_page("job", "Does it.", kind, values, {}, recipes_for(kind))


def leaves_to_tree(words: Iterable[str]) -> dict[str, object]:
    return read(list(words)).values


@pytest.mark.parametrize("columns", [60, 80, 200])
@pytest.mark.parametrize("verb", CONFIGS)
def test_help_is_in_words_and_fits_the_terminal(verb: str, columns: int) -> None:
    text = help_of(verb, columns=columns)
    assert max(map(len, text.splitlines())) <= columns
    for internal in ("FieldInfo", "Annotated", "Union", "typing", "NoneType", "metadata"):
        assert internal not in text


@pytest.mark.parametrize("verb", CONFIGS)
def test_help_shows_no_key_that_the_job_does_not_use(verb: str) -> None:
    kind, values = CONFIGS[verb]({})
    text = help_of(verb, columns=200)
    assert [key.name for key in known_keys(kind, values) if f" {key.name}=" not in text] == []
    names = {key.name for key in known_keys(type("Whole", (kind,), {"ignored": ()}), values)}
    for ignored in kind.ignored:
        assert any(is_under(name, (ignored,)) for name in names), ignored
        assert not re.search(rf"^[ *] {ignored}[.=]", text, re.M)
        if not kind.of_another:
            with pytest.raises(InputError, match="has no effect on this job: leave it out"):
                parse(CONFIGS[verb], [f"{next(n for n in names if is_under(n, (ignored,)))}=1"])
    assert set(kind.most_used) <= names
    parse(CONFIGS[verb], kind.example.split())


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("pretrain", ["simclr_small", "source.uri=/a", "out=/b", "num_steps=1"]),
        ("pretrain", ["method.name=dino", "source.uri=/a", "out=/b", "num_steps=1"]),
        ("preview", ["mae_small", "source.uri=/a", "out=/b.png"]),
        ("index", ["source.uri=/a", "out=/b"]),
        ("pack", ["source.uri=/a", "out=/b"]),
        ("artifact", ["run=/a", "out=/b"]),
        ("export", ["artifact=/c", "source.uri=/a", "out=/b"]),
        ("adapt", ["artifact=/c", "train.uri=/a", "test.uri=/b"]),
        ("report", ["run=/a"]),
        ("demo", ["out=/a"]),
    ],
)
def test_every_line_of_help_can_be_typed(verb: str, words: list[str]) -> None:
    text = help_of(verb, *words, columns=200)
    typed = re.findall(r"^[ *] (\w[\w.]*=\S+)", text, re.M)
    length = [word for word in typed if re.match(r"num_(steps|epochs)=", word)]
    parse(CONFIGS[verb], [*words, *(word for word in typed if word not in length)])


def test_help_names_the_groups_of_the_chosen_method() -> None:
    text = help_of("pretrain", "method.name=dino")
    for group in ("global_crops_1", "global_crops_2", "local_crops"):
        assert f"views.groups.{group}.count=" in text
    assert "views.groups.count" not in text
    assert "views.groups.local_crops" not in help_of("pretrain", "method.name=simclr")


def test_help_shows_the_recipe_s_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("pretrain", "", complete_pretrain, _never, ["simclr_small", "--help"]) == 0
    text = capsys.readouterr().out
    assert "* optim.lr=0.06 " in text and "  optim.momentum=0.9 " in text


def test_a_job_lists_the_recipes_that_it_can_take() -> None:
    assert "Recipes" not in help_of("adapt") and "simclr_small" not in help_of("report")
    assert "mae_small" in help_of("preview")


def test_what_a_recipe_says_of_keys_that_a_job_does_not_use_is_passed_over() -> None:
    config = parse(preview.complete, ["mae_small", "source.uri=/a", "out=/b.png"])
    assert config.optim == type(config.optim)()
    assert "optim" not in yaml.safe_load(to_yaml(config))


def test_types_are_said_in_words() -> None:
    text = help_of("pretrain", columns=200)
    for key, words in {
        "num_steps=null": "int >= 1 | null",
        "cluster.num_workers=1": "int >= 1 | MIN..MAX",
        "cluster.cpus_per_worker=auto": "auto | number",
        "views.groups.global_crops.scale=[0.08,1]": "2 numbers > 0 and <= 1",
        "log.tensorboard=true": "true | false",
        "optim.momentum=0.9": "number >= 0 and < 1",
        "encoder.width=64": "int >= 8, a multiple of 4",
        "source.uri=...": "text, required",
    }.items():
        assert re.search(rf" {re.escape(key)}\s+{re.escape(words)}\n", text), key


def test_an_empty_command_line_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("index", "", CONFIGS["index"], _never, []) == 2
    assert capsys.readouterr().err.startswith("error: source.uri is missing: give source.uri=...")


def test_a_prefix_with_and_without_a_slash_is_one_experiment() -> None:
    one, other = (parsed(f"source.uri=s3://bucket/images{end}") for end in ("", "/"))
    assert one.experiment() == other.experiment()
    assert one.fingerprint() == other.fingerprint()
