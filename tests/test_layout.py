"""The house: commands in one place, folders small enough to read, one name a module."""

import ast
from collections import Counter
from pathlib import Path

from models.registry import METHODS

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("augment", "models", "pipelines", "jobs")
MOST_MODULES = 14


def _modules() -> list[Path]:
    return [
        path.relative_to(ROOT)
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if path.name != "__init__.py"
    ]


def test_every_file_directly_in_jobs_is_a_command() -> None:
    commands = [path for path in _modules() if path.parent == Path("jobs")]
    assert commands
    for path in commands:
        last = ast.parse((ROOT / path).read_text()).body[-1]
        assert isinstance(last, ast.If) and ast.unparse(last.test) == "__name__ == '__main__'", path


def test_no_job_names_a_method() -> None:
    families = {kind.__module__ for kind in METHODS.values()}
    names = METHODS.keys() - {"clip"}  # the word of a piece of a video, too
    for path in (ROOT / "jobs").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                imported = {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
                assert not imported & families, f"{path}:{node.lineno}"
            elif isinstance(node, ast.Import):
                assert not {name.name for name in node.names} & families, f"{path}:{node.lineno}"
            elif isinstance(node, ast.Constant):
                assert node.value not in names, f"{path}:{node.lineno} {node.value!r}"


def test_no_folder_is_too_large_to_read() -> None:
    # jobs/ itself is left out: it holds the commands, one a file, however many there are.
    sizes = Counter(path.parent for path in _modules())
    large = {
        str(folder): size
        for folder, size in sizes.items()
        if size > MOST_MODULES and folder != Path("jobs")
    }
    assert not large


def test_no_two_modules_share_a_name() -> None:
    # A command is called by its verb, whatever holds what it makes: jobs.artifact, models.artifact;
    # and models.registry holds the methods.
    commands = {path.stem for path in _modules() if path.parent == Path("jobs")}
    names = Counter(path.stem for path in _modules() if path.parent != Path("jobs"))
    assert {name for name in commands if names[name]} <= {"artifact", "registry"}
    assert [name for name, count in names.items() if count > 1] == []
