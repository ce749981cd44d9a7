"""augment.kernels.compiled: machine code is that of the sources, whatever lies in a cache."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import augment
from augment.kernels import compiled, resize

# Prints the sum of a resized box, and how many of the kernels came out of the cache.
SCRIPT = """
import numpy as np
from augment.kernels import resize
pixels = np.arange(40 * 40 * 3, dtype=np.uint8).reshape(40, 40, 3)
out = np.zeros((3, 32, 32), np.uint8)
resize.resize_box(pixels, (0, 0, 40, 40), False, out)
print(out.sum(), sum(resize._resize_box.stats.cache_hits.values()))
"""


def resized() -> int:
    """Return what the script's first number should be."""
    pixels = np.arange(40 * 40 * 3, dtype=np.uint8).reshape(40, 40, 3)
    out = np.zeros((3, 32, 32), np.uint8)
    resize.resize_box(pixels, (0, 0, 40, 40), False, out)
    return int(out.sum())


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package without a cache."""
    source = Path(augment.__file__).parent
    shutil.copytree(source, tmp_path / "augment", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def start(copy: Path) -> subprocess.Popen[str]:
    env = dict(os.environ, PYTHONPATH=str(copy), XDG_CACHE_HOME=str(copy / "home"))
    env.pop("NUMBA_CACHE_DIR", None)
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT], cwd=copy, env=env, stdout=subprocess.PIPE, text=True
    )


def outcome(copy: Path) -> tuple[int, int]:
    return finished(start(copy))


def finished(process: subprocess.Popen[str]) -> tuple[int, int]:
    output, _ = process.communicate()
    assert process.returncode == 0
    total, hits = output.split()
    return int(total), int(hits)


@pytest.mark.slow
def test_a_change_of_any_source_is_seen_and_processes_share_what_they_compiled(copy: Path) -> None:
    base = copy / "augment/kernels/__pycache__"
    for number in range(6):
        (base / f"kernels-{number}").mkdir(parents=True)
        os.utime(base / f"kernels-{number}", (number, number))
    both = [start(copy), start(copy)]
    assert [finished(process)[0] for process in both] == [resized()] * 2
    left = {path.name for path in base.glob("kernels-*")}
    assert len(left) == 4 and {f"kernels-{number}" for number in (3, 4, 5)} < left
    vectors = copy / "augment/kernels/vectors.py"
    source = vectors.read_text()
    changed = source.replace("_INDEX(16)]", "_INDEX(15)]")  # products twice as large
    assert changed != source
    vectors.write_text(changed)
    total, hits = outcome(copy)
    assert total != resized() and hits == 0
    vectors.write_text(source)
    assert outcome(copy) == (resized(), 1)


@pytest.mark.slow
def test_the_home_folder_holds_the_cache_of_a_read_only_package_and_damage_costs_a_compilation(
    copy: Path,
) -> None:
    # A file in the folder's place refuses the superuser too.
    (copy / "augment/kernels/__pycache__").write_text("")
    assert outcome(copy) == (resized(), 0)
    assert outcome(copy) == (resized(), 1)
    files = list((copy / "home").rglob("kernels-*/*.nbc"))
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[:100])
    assert outcome(copy) == (resized(), 0)


def test_kernels_use_no_code_from_outside_of_their_folder() -> None:
    folder = Path(compiled.__file__).parent
    for path in folder.glob("*.py"):
        imports = [
            line for line in path.read_text().splitlines() if line.startswith("from augment")
        ]
        assert all(line.startswith("from augment.kernels.") for line in imports), path
