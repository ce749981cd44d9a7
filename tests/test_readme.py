import importlib
import re
import shlex
from pathlib import Path

import pytest

from jobs.adapt import AdaptConfig
from jobs.export import ExportConfig
from jobs.index import IndexConfig
from jobs.pack import PackConfig
from jobs.report import ReportConfig
from jobs.setup.command_line import parse
from jobs.training.run_config import complete_pretrain

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"python -m jobs\.(\w+) (.+)", README)
BUILD = {
    "pretrain": complete_pretrain,
    "adapt": lambda values: (AdaptConfig, values),
    "export": lambda values: (ExportConfig, values),
    "index": lambda values: (IndexConfig, values),
    "pack": lambda values: (PackConfig, values),
    "report": lambda values: (ReportConfig, values),
}


def test_the_first_commands_are_make_demo_and_make_test() -> None:
    block = re.search(r"```\n(.+?)```", README, re.S)
    assert block is not None
    assert [line.split("#")[0].split() for line in block[1].splitlines()] == [
        ["make", "demo"],
        ["make", "test"],
    ]
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    assert {"demo", "test", "test-all", "check"} <= set(targets)


@pytest.mark.parametrize(("verb", "words"), COMMANDS)
def test_every_command_of_the_readme_is_accepted(verb: str, words: str) -> None:
    importlib.import_module(f"jobs.{verb}")
    parse(BUILD[verb], shlex.split(words))


def test_the_readme_shows_each_job_and_the_submit_line() -> None:
    assert {verb for verb, _ in COMMANDS} == set(BUILD)
    assert "ray job submit --working-dir . -- python -m jobs.pretrain" in README


def test_the_tree_names_what_is_there() -> None:
    tree = README.split("## The tree")[1].split("```")[1]
    named = [
        word
        for line in tree.splitlines()
        for word in re.findall(r"^(\w+/)|(\S+\.\w+|Makefile|LICENSE)(?=\s|$)", line)
    ]
    paths = {path for pair in named for path in pair if path and not path.startswith("`")}
    assert {"augment/", "models/", "pipelines/", "jobs/", "tests/", "cluster.yaml"} <= paths
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert not missing
    described = {
        verb
        for line in tree.splitlines()
        if line.startswith("jobs/")
        for verb in re.findall(r"\b\w+\b", line)
    }
    jobs = {
        path.stem
        for path in (ROOT / "jobs").glob("*.py")
        if '__name__ == "__main__"' in path.read_text()
    }
    assert jobs <= described


def test_pictures_of_the_readme_exist() -> None:
    for path in re.findall(r"!\[.*?\]\((.+?)\)", README):
        assert (ROOT / path).stat().st_size > 1000
