"""Change the data plane one line at a time, and count which changes the tests notice.

`make mutants`, or a part of it: `python -m tests.mutants --only pipelines/stream --at-random 5`.
Each mutant stands alone in a copy of the tree. It is caught where one of its tests fails.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.mutants.at_random import chosen
from tests.mutants.stated import STATED, Mutant

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("afield", "augment", "models", "pipelines", "jobs", "tests", "pyproject.toml")
AT_LEAST = 0.8  # of the stated set
PATIENCE_S = 280


def main() -> int:
    """Run the mutants that the command line asks for; 1 where too few are caught."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.mutants")
    parser.add_argument("--only", nargs="*", default=[""], help="paths that begin so")
    parser.add_argument("--at-random", type=int, default=20, help="how many more, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the drawing")
    parser.add_argument("--no-stated", action="store_true", help="leave out the stated set")
    args = parser.parse_args()
    stated = [] if args.no_stated else [m for m in STATED if m.path.startswith(tuple(args.only))]
    drawn = chosen(ROOT, args.seed, args.at_random)
    with tempfile.TemporaryDirectory(prefix="afield-mutants-") as folder:
        tree = Path(folder)
        _copy(tree)
        enough = _score("stated", stated, tree) >= AT_LEAST
        if drawn:
            _score(f"drawn with seed {args.seed}", drawn, tree)
    return 0 if enough else 1


def _copy(tree: Path) -> None:
    for name in COPIED:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, tree / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, tree / name)


def _score(name: str, mutants: list[Mutant], tree: Path) -> float:
    """Try mutants, and print what became of each; return the part of them that is caught."""
    caught = 0
    for mutant in mutants:
        started = time.monotonic()
        found = _is_caught(mutant, tree)
        caught += found
        word = "caught" if found else "SURVIVED"
        print(f"{word:8} {time.monotonic() - started:4.0f} s  {mutant}", flush=True)
    fraction = caught / len(mutants) if mutants else 1.0
    print(f"{name}: {caught} of {len(mutants)} mutants caught, {fraction:.0%}", flush=True)
    return fraction


def _is_caught(mutant: Mutant, tree: Path) -> bool:
    path = tree / mutant.path
    source = path.read_text()
    assert source.count(mutant.before) == 1, f"{mutant.path} has no single {mutant.before!r}"
    path.write_text(source.replace(mutant.before, mutant.after))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    # Bytecode is told from its source by time and size: two mutants in a second may look the same.
    env = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            [*command, *mutant.tests], cwd=tree, env=env, capture_output=True, timeout=PATIENCE_S
        )
    except subprocess.TimeoutExpired:
        return True
    finally:
        path.write_text(source)
    if done.returncode not in (0, 1, 2, 5):
        raise RuntimeError(done.stdout.decode()[-2000:])
    return done.returncode in (1, 2)  # 5: all tests of it are slow ones


if __name__ == "__main__":
    sys.exit(main())
