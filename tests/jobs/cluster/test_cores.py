import subprocess
import sys
from pathlib import Path

import pytest

from jobs.cluster import cores
from jobs.training.run_dir import environment
from tests.commands import ROOT


def test_the_cores_of_this_process_are_those_it_may_run_on() -> None:
    script = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from jobs.cluster.cores import own_cores; print(own_cores())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "1", done.stderr


@pytest.mark.parametrize(
    ("own", "files", "taken"),
    [
        ("0::/", {"cpu.max": "150000 100000"}, 2),  # a container: its group is the root
        ("0::/a/b", {"cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3),
        ("0::/a/b", {"a/b/cpu.max": "50000 100000", "a/cpu.max": "300000 100000"}, 1),
        (
            "5:memory:/c\n4:cpu,cpuacct:/c",
            {"cpu/c/cpu.cfs_quota_us": "400000", "cpu/c/cpu.cfs_period_us": "100000"},
            4,
        ),
        ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ("", {}, 64),
    ],
)
def test_a_limit_of_any_group_around_a_process_counts(
    own: str, files: dict[str, str], taken: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "cgroup"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (tmp_path / "own").write_text(own)
    monkeypatch.setattr(cores, "CGROUPS", root)
    monkeypatch.setattr(cores, "OWN_CGROUP", tmp_path / "own")
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: set(range(64)))
    assert cores.own_cores() == taken
    assert environment()["cores"] == taken
