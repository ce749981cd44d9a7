"""Every shipped recipe says what it is, from which paper, how it was run, where, and what came of
it."""

import re
import shlex

import pytest

from jobs.demo import DemoConfig
from jobs.setup.command_line import parse
from jobs.setup.words import recipe_names
from jobs.training.run_config import complete_pretrain
from models.registry import METHODS
from tests.recipe_headers import ELSEWHERE, KEYS, RECIPES, TITLE, read_header

BUILD = {"pretrain": complete_pretrain, "demo": lambda values: (DemoConfig, values)}


@pytest.mark.parametrize("recipe", recipe_names())
def test_a_recipe_begins_with_its_title_paper_command_device_and_result(recipe: str) -> None:
    header = read_header(recipe)
    assert tuple(header) == (TITLE, *KEYS)
    assert header[TITLE].endswith(".")
    assert re.match(rf"(arXiv:\d{{4}}\.\d{{4,5}}|{ELSEWHERE})\b", header["paper"])
    assert (header["device"] == "not run") == (header["result"] == "not run")
    lines = (RECIPES / f"{recipe}.yaml").read_text().splitlines()
    assert all(len(line) <= 100 for line in lines if line.startswith("# "))


@pytest.mark.parametrize("recipe", recipe_names())
def test_the_command_of_a_header_is_accepted_and_runs_that_recipe(recipe: str) -> None:
    python, option, module, *words = shlex.split(read_header(recipe)["command"])
    assert (python, option) == ("python", "-m")
    verb = module.removeprefix("jobs.")
    parse(BUILD[verb], words)
    assert verb == recipe or words[0] == recipe


def test_every_method_has_a_small_recipe_that_was_run() -> None:
    results = {name: read_header(f"{name}_small")["result"] for name in METHODS}
    figure = r"(kNN|Spearman) \d\.\d{3}\b.*; untrained \d"
    assert not {name for name in results if not re.match(figure, results[name])}
