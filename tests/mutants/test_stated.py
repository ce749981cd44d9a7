"""The stated mutants are still changes of what stands there."""

import ast
from collections import Counter
from pathlib import Path

from tests.mutants.at_random import FOLDERS, chosen
from tests.mutants.mutant import Mutant
from tests.mutants.stated import STATED

ROOT = Path(__file__).resolve().parents[2]


def is_a_change(mutant: Mutant) -> bool:
    source = (ROOT / mutant.path).read_text()
    changed = ast.parse(source.replace(mutant.before, mutant.after))
    once = source.count(mutant.before) == 1
    tested = all((ROOT / name).exists() for name in mutant.tests)
    return once and tested and ast.dump(changed) != ast.dump(ast.parse(source))


def test_every_mutant_changes_one_place_to_other_python() -> None:
    assert [str(mutant) for mutant in STATED if not is_a_change(mutant)] == []


def test_the_stated_set_is_in_every_part_of_the_data_plane() -> None:
    parts = Counter(str(Path(mutant.path).parent) for mutant in STATED)
    assert [folder for folder in FOLDERS if parts[folder] < 3] == []
    assert len(STATED) >= 80


def test_a_drawing_is_that_of_its_seed() -> None:
    first, again, other = (chosen(ROOT, seed, 5) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    for mutant in first:
        source = (ROOT / mutant.path).read_text()
        assert source.startswith(mutant.before)
        ast.parse(source.replace(mutant.before, mutant.after))
