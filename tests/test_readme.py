"""README and docs: every command is accepted, every setting, path, link and picture is there."""

import ast
import importlib.util
import re
import runpy
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

from jobs.adapt import AdaptConfig
from jobs.adaptation.training_sections import TrainedAdaptConfig
from jobs.artifact import MakeArtifactConfig
from jobs.curating.curate_sections import CurateConfig
from jobs.demo import DemoConfig
from jobs.estimating.estimate_config import EstimateConfig
from jobs.export import ExportConfig
from jobs.index import IndexConfig
from jobs.mapping.atlas_sections import AtlasConfig
from jobs.pack import PackConfig
from jobs.predict import PredictConfig
from jobs.probing.propagate_sections import PropagateConfig
from jobs.probing.similarity_sections import SimilarityConfig
from jobs.publish import PublishConfig
from jobs.registering.registry_config import RegistryConfig
from jobs.report import ReportConfig
from jobs.search import SearchConfig
from jobs.setup.help_page import known_keys
from jobs.setup.words import recipe_names
from jobs.text_probes.text_probe_sections import RetrieveCaptionsConfig, ZeroShotConfig
from jobs.training.run_config import complete_pretrain
from models.registry import METHODS
from tests.methods_table import row
from tests.recipe_headers import read_header

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PACKAGES = ("augment", "benchmarks", "deploy", "docs", "jobs", "models", "pipelines", "tests")
FILES = (".yaml", ".json", ".safetensors", ".parquet", ".csv")
MOST_PICTURE_BYTES = 400_000
JOB_CONFIGS = (
    AdaptConfig,
    AtlasConfig,
    MakeArtifactConfig,
    CurateConfig,
    DemoConfig,
    EstimateConfig,
    ExportConfig,
    IndexConfig,
    PackConfig,
    PredictConfig,
    PublishConfig,
    RegistryConfig,
    ReportConfig,
    SearchConfig,
    PropagateConfig,
    SimilarityConfig,
    TrainedAdaptConfig,
    ZeroShotConfig,
    RetrieveCaptionsConfig,
)


def text(page: Path) -> str:
    """Return a page with its continued lines joined."""
    return re.sub(r" \\\n +", " ", page.read_text())


def blocks(page: Path, language: str = "") -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^ *```{language}\n(.+?)^ *```", text(page), re.S | re.M)


def prose(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return re.sub(r"^ *```.*?^ *```", "", text(page), flags=re.S | re.M)


def spans(page: Path) -> list[str]:
    """Return what stands between backticks outside of blocks."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(page))]


def commands() -> list[tuple[str, str]]:
    """Return every command of every page, with the page's name; VERB stands for any."""
    found = []
    for page in PAGES:
        lines = [line for block in blocks(page) for line in block.splitlines()]
        lines = [line.partition(" # ")[0].strip() for line in lines]
        starts = ("python ", "ray ", "make ", "pip ", "source ")
        known = [line for line in [*lines, *spans(page)] if line.startswith(starts)]
        found += [(page.name, line) for line in known if "VERB" not in line]
    return found


def modules() -> list[tuple[str, list[str]]]:
    """Return module and words of every `python -m`, submitted ones too."""
    found = [re.search(r"python -m (\S+)(.*)$", line) for _, line in commands()]
    return [(match[1], shlex.split(match[2])) for match in found if match]


JOBS = [(name, words) for name, words in modules() if name.startswith("jobs.")]
OTHERS = [(name, words) for name, words in modules() if not name.startswith("jobs.")]


def slug(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower().replace("`", "")).strip().replace(" ", "-")


def test_the_first_commands_are_make_demo_and_make_test() -> None:
    lines = [line.partition("#")[0].split() for line in blocks(README)[0].splitlines()]
    assert lines == [["make", "demo"], ["make", "test"]]
    assert blocks(README)[1] == "source .venv/bin/activate\n"
    assert (ROOT / "Makefile").read_text().count("-m venv .venv") == 1


@pytest.mark.parametrize(("name", "words"), JOBS)
def test_every_job_shown_is_accepted_by_the_real_command_line(
    name: str, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shows = [] if {"--help", "--print-config"} & set(words) or not words else ["--print-config"]
    monkeypatch.setattr(sys, "argv", [name, *(words or ["--help"]), *shows])
    monkeypatch.delitem(sys.modules, name, raising=False)  # runpy warns of a module that is there
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(name, run_name="__main__")
    assert ended.value.code == 0, capsys.readouterr().err


def test_every_job_is_shown() -> None:
    verbs = {path.stem for path in (ROOT / "jobs").glob("*.py")} - {"__init__"}
    shown = {name.removeprefix("jobs.") for name, _ in JOBS}
    told = {span.removeprefix("jobs.") for page in PAGES for span in spans(page)}
    assert verbs <= shown | told


@pytest.mark.parametrize(("name", "words"), OTHERS)
def test_every_other_module_is_there_and_takes_the_words_shown(name: str, words: list[str]) -> None:
    path = ROOT / f"{name.replace('.', '/')}.py"
    usage = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert f"python -m {name}" in usage
    assert all(f"{word.partition('=')[0]}=" in usage for word in words if "=" in word)
    (called,) = re.findall(rf"^python -m {re.escape(name)}((?: [A-Z]\w*(?!=)\b)*)", usage, re.M)
    assert len(called.split()) == sum("=" not in word for word in words)


def test_every_other_command_is_one_that_the_tree_knows() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [f".[{extra}]" for extra in project["optional-dependencies"]]
    submit = re.compile(r"ray job submit --working-dir \. -- python -m jobs\.\w+ ")
    for page, line in commands():
        if line.startswith("make "):
            assert line.split()[1] in targets, (page, line)
        elif line.startswith("pip "):
            assert line.split()[:3] == ["pip", "install", "-e"], (page, line)
            assert line.split()[3] in extras, (page, line)
        elif line.startswith("ray ") and len(line.split()) > 3:
            assert submit.match(line), (page, line)


def test_every_setting_named_is_one_that_a_job_takes() -> None:
    keys = {key.name for config in JOB_CONFIGS for key in known_keys(config, {})}
    for method in METHODS:
        kind, values = complete_pretrain({"method": {"name": method}})
        keys |= {key.name for key in known_keys(kind, values)}
    sections = {key.partition(".")[0] for key in keys if "." in key}
    for page in PAGES:
        for span in spans(page):
            found = re.match(r"([a-z]+)\.[a-z_]+(\.[a-z_]+)*(?==|$)", span)
            if found and found[1] in sections and not span.endswith(FILES):
                assert found[0] in keys, (page.name, span)


def test_every_path_and_module_named_is_there() -> None:
    for page in PAGES:
        for span in spans(page):
            if re.match(rf"({'|'.join(PACKAGES)})/[\w./-]*$", span):
                assert (ROOT / span).exists(), (page.name, span)
            elif re.match(rf"({'|'.join(PACKAGES)})\.\w+$", span):
                assert importlib.util.find_spec(span), (page.name, span)


def test_every_link_has_a_target() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)]+)\)", prose(page)):
            if link.startswith("https://"):
                assert re.fullmatch(r"https://arxiv\.org/abs/\d{4}\.\d{4,5}", link), link
                continue
            name, _, anchor = link.partition("#")
            target = page.parent / name if name else page
            assert target.exists(), (page.name, link)
            headings = re.findall(r"^#+ (.+)$", prose(target), re.M) if anchor else []
            assert not anchor or anchor in map(slug, headings), (page.name, link)


def test_every_picture_is_there_small_and_described() -> None:
    shown = set()
    for page in PAGES:
        for words, link in re.findall(r"!\[(.*?)\]\((.+?)\)", page.read_text()):
            picture = (page.parent / link).resolve()
            shown.add(picture)
            assert 1000 < picture.stat().st_size < MOST_PICTURE_BYTES, link
            assert len(words) > 20, link
    assert shown == set((ROOT / ".readme").iterdir())


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    assert len(README.read_text().splitlines()) <= 140
    links = {link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", README.read_text())}
    assert {str(page.relative_to(ROOT)) for page in PAGES} - {"README.md"} <= links


def test_no_sentence_begins_with_of() -> None:
    for page in PAGES:
        assert not re.search(r"(^|[.:!?]\s+|\n\n|\| |- )Of ", prose(page)), page.name


def test_the_tree_names_what_is_there() -> None:
    tree = README.read_text().split("## The tree")[1].split("```")[1]
    named = re.findall(r"^(\w+/)", tree, re.M)
    assert {f"{name}/" for name in PACKAGES} <= set(named)
    described = re.search(r"^docs/ +(.+)$", tree, re.M)
    assert described is not None
    assert set(described[1].split()) == {path.stem for path in (ROOT / "docs").glob("*.md")}
    read_first = README.read_text().split("Read these six files first")[1].split("\n\n")[0]
    assert len(re.findall(r"`[\w/]+\.py`", read_first)) == 6


def test_the_tables_of_methods_say_what_the_recipes_say() -> None:
    page = (ROOT / "docs" / "methods.md").read_text()
    rows = re.findall(r"^\| `(\w+)` .*$", page, re.M)
    assert len(rows) > len(METHODS)
    for recipe in rows:
        assert row(recipe) in page, "bring it up to date: python -m tests.methods_table"


def test_papers_of_the_readme_are_those_of_the_recipes() -> None:
    table = README.read_text().split("## Methods")[1].split("##")[0]
    papers = {paper for name in recipe_names() for paper in _papers(read_header(name)["paper"])}
    assert set(_papers(table)) <= papers


def _papers(words: str) -> list[str]:
    return re.findall(r"\b\d{4}\.\d{4,5}\b", words)
