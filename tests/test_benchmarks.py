"""Benchmarks are run by hand; that they start and say what they want is tested."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OF_THE_EXTRA = ("psutil", "lightly", "albumentations", "nvidia")
RUNNABLE = [
    path.stem for path in (ROOT / "benchmarks").glob("*.py") if "__main__" in path.read_text()
]


@pytest.mark.parametrize("name", RUNNABLE)
def test_a_benchmark_without_its_data_says_how_it_is_called(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        module = importlib.import_module(f"benchmarks.{name}")
    except ModuleNotFoundError as error:
        if error.name not in OF_THE_EXTRA:
            raise
        pytest.skip(f"{error.name} is in the extra `bench`")
    try:
        status = module.main([])
    except SystemExit as exit:
        status = exit.code
    said = capsys.readouterr().err.strip()
    assert status == 2 and said.startswith("error: ") and f"python -m benchmarks.{name} " in said
    assert "\n" not in said


def test_every_benchmark_is_in_the_docs() -> None:
    pages = "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    assert [name for name in RUNNABLE if f"python -m benchmarks.{name} " not in pages] == []
