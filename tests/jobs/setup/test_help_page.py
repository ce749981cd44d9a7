"""`--help`: every key in words, fitting the terminal, and only those that the job uses."""

import re
from collections.abc import Iterable

import pytest

from jobs import preview
from jobs.adapt import AdaptConfig
from jobs.artifact import MakeArtifactConfig
from jobs.demo import DemoConfig
from jobs.export import ExportConfig
from jobs.index import IndexConfig
from jobs.pack import PackConfig
from jobs.publish import PublishConfig
from jobs.report import ReportConfig
from jobs.search import SearchConfig
from jobs.setup.command_line import main, parse
from jobs.setup.failures import InputError
from jobs.setup.help_page import help_page, is_under, known_keys
from jobs.setup.words import read, recipes_for
from jobs.training.run_config import complete_pretrain

WORDS = ["simclr_small", "source.uri=/data", "out=/out", "num_steps=10"]


CONFIGS = {
    "pretrain": complete_pretrain,
    "preview": preview.complete,
    "index": lambda values: (IndexConfig, values),
    "pack": lambda values: (PackConfig, values),
    "artifact": lambda values: (MakeArtifactConfig, values),
    "export": lambda values: (ExportConfig, values),
    "adapt": lambda values: (AdaptConfig, values),
    "publish": lambda values: (PublishConfig, values),
    "search": lambda values: (SearchConfig, values),
    "report": lambda values: (ReportConfig, values),
    "demo": lambda values: (DemoConfig, values),
}


def _never(config: object) -> dict[str, object]:
    raise AssertionError("nothing starts")


def help_of(verb: str, *words: str, columns: int = 80) -> str:
    kind, values = CONFIGS[verb](leaves_to_tree(words))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(columns))
        return help_page("job", "Does it.", kind, values, {}, recipes_for(kind))


def leaves_to_tree(words: Iterable[str]) -> dict[str, object]:
    return read(list(words)).values


def test_help_shows_the_keys_of_the_chosen_method(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("pretrain", "", complete_pretrain, _never, ["method.name=mae", "--help"]) == 0
    text = capsys.readouterr().out
    assert (
        "method.mask_ratio" in text
        and "method.temperature" not in text
        and "cluster.num_workers" in text
    )


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


def test_types_are_said_in_words() -> None:
    text = "".join(help_of(verb, columns=200) for verb in ("pretrain", "adapt", "search"))
    for key, words in {
        "num_steps=null": "int >= 1 | null",
        "cluster.num_workers=1": "int >= 1 | MIN..MAX",
        "cluster.cpus_per_worker=auto": "auto | number",
        "views.groups.global_crops.scale=[0.08,1]": "2 numbers > 0 and <= 1",
        "query=[]": "FILE | ID | [FILE,ID,...]",
        "probe.k=[20]": "1 or more ints > 0",
        "probe.weight_decay=null": "1 or more numbers >= 0 | null",
        "probe.pooling=[auto]": "1 or more of auto | class | mean | max | gem",
        "log.tensorboard=true": "true | false",
        "optim.momentum=0.9": "number >= 0 and < 1",
        "encoder.width=64": "int >= 4, a multiple of 4",
        "source.uri=...": "text, required",
    }.items():
        assert re.search(rf" {re.escape(key)}\s+{re.escape(words)}\n", text), key
