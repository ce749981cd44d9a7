"""Benchmarks are run by hand; that they start and say what they want is tested."""

import importlib
import json
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


def test_two_commits_are_compared_by_the_ratios_that_both_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare = importlib.import_module("benchmarks.compare")
    measured = {
        "aaa1": [{"slower": 1.0, "same": 1.0, "overlaps": 1.0, "gone": 1.0}, {"slower": 0.95}],
        "aaa1+changes": [{"slower": 9.0}],
        "bbb2": [{"slower": 0.8, "same": 0.97, "overlaps": 0.5}, {"slower": 0.7, "overlaps": 1.1}],
    }
    rows = [
        {"commit": commit, "ratios": ratios}
        for commit, found in measured.items()
        for ratios in found
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "other.jsonl").write_text("not JSON\n")

    assert compare.main(["aaa", "bbb", f"rows={tmp_path}"]) == 1
    said = capsys.readouterr()
    assert json.loads(said.out.splitlines()[-1]) == {"common": 3, "fell": ["slower"]}
    assert "| slower | 0.97 (0.95-1.00) | 0.75 (0.70-0.80) | -23 % | fell |" in said.out
    assert "other.jsonl: left out" in said.err
    assert compare.main(["bbb", "aaa", f"rows={tmp_path}"]) == 0
    assert (
        "| slower | 0.75 (0.70-0.80) | 0.97 (0.95-1.00) | +30 % | rose |" in capsys.readouterr().out
    )
    assert compare.main(["aaa", "ccc", f"rows={tmp_path}"]) == 2
    assert "no ratio in common" in capsys.readouterr().err
