"""Change the data plane one line at a time, and count which changes the tests notice.

`make mutants`, or a part of it: `python -m tests.mutants --only pipelines/stream --at-random 5`.
Each mutant stands alone in a copy of the tree. It is caught where one of its tests fails that
passes without it. A run that was stopped goes on with `--only` and the folders that are left.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.mutants.at_random import chosen
from tests.mutants.mutant import Mutant
from tests.mutants.stated import STATED

ROOT = Path(__file__).resolve().parents[2]
COPIED = (
    *("afield", "augment", "models", "pipelines", "jobs", "tests", "deploy"),
    *("pyproject.toml", "cluster.yaml", "constraints.txt", "README.md"),
)
AT_LEAST = 0.8  # of the stated set


def main() -> int:
    """Run the mutants that the command line asks for; 1 where too few are caught."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.mutants")
    parser.add_argument("--only", nargs="*", default=[""], help="paths that begin so")
    parser.add_argument("--at-random", type=int, default=20, help="how many more, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the drawing")
    parser.add_argument("--no-stated", action="store_true", help="leave out the stated set")
    parser.add_argument(
        "--patience", type=int, default=280, help="seconds; hanging is being caught"
    )
    args = parser.parse_args()
    stated = [] if args.no_stated else [m for m in STATED if m.path.startswith(tuple(args.only))]
    drawn = chosen(ROOT, args.seed, args.at_random)
    with tempfile.TemporaryDirectory(prefix="afield-mutants-") as folder:
        tree = Path(folder)
        _copy(tree)
        trial = Trial(tree, args.patience)
        enough = _score("stated", stated, trial) >= AT_LEAST
        if drawn:
            _score(f"drawn with seed {args.seed}", drawn, trial)
    return 0 if enough else 1


def _copy(tree: Path) -> None:
    for name in COPIED:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, tree / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, tree / name)


class Trial:
    """A copy of the tree in which mutants are tried.

    Args:
        tree: The copy.
        patience_s: A mutant whose tests take longer counts as caught.
    """

    def __init__(self, tree: Path, patience_s: int) -> None:
        self._tree = tree
        self._patience_s = patience_s
        self._passed: set[str] = set()

    def caught_by(self, mutant: Mutant) -> str | None:
        """Return the test that fails with a mutant and passes without it, if there is one."""
        path = self._tree / mutant.path
        source = path.read_text()
        assert source.count(mutant.before) == 1, f"{mutant.path} has no single {mutant.before!r}"
        path.write_text(source.replace(mutant.before, mutant.after))
        try:
            failed = self._first_failure(*mutant.tests)
        except subprocess.TimeoutExpired:
            return f"{self._patience_s} s without an end"
        finally:
            path.write_text(source)
        # A test that fails anyway, or now and then, says nothing of the mutant.
        if failed and failed not in self._passed:
            if without := self._first_failure(failed):
                print(f"{without} fails without a mutant", file=sys.stderr, flush=True)
                return None
            self._passed.add(failed)
        return failed

    def _first_failure(self, *tests: str) -> str | None:
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        command += ["-m", "not gpu and not slow", *tests]
        # Bytecode is told from its source by time and size: two mutants in a second may look the
        # same.
        env = {**os.environ, "PYTHONPATH": str(self._tree), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            command, cwd=self._tree, env=env, capture_output=True, timeout=self._patience_s
        )
        if done.returncode in (0, 5):  # 5: all tests of it are slow ones
            return None
        said = done.stdout.decode()
        named = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", said, re.MULTILINE)
        if done.returncode not in (1, 2) or not named:
            raise RuntimeError(said[-2000:])
        return named[1]


def _score(name: str, mutants: list[Mutant], trial: Trial) -> float:
    """Try mutants, and print what became of each; return the part of them that is caught."""
    caught = 0
    for mutant in mutants:
        started = time.monotonic()
        by = trial.caught_by(mutant)
        caught += by is not None
        word = "caught" if by else "SURVIVED"
        seconds = time.monotonic() - started
        print(f"{word:8} {seconds:4.0f} s  {mutant}{f'  by {by}' if by else ''}", flush=True)
    fraction = caught / len(mutants) if mutants else 1.0
    print(f"{name}: {caught} of {len(mutants)} mutants caught, {fraction:.0%}", flush=True)
    return fraction


if __name__ == "__main__":
    sys.exit(main())
