"""A change of one line, and the tests that should notice."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One change to one module.

    Attributes:
        path: The module.
        before: What stands there, once.
        after: What takes its place.
        tests: Files of tests, or folders of them, that should fail.
        where: For people, where the texts do not say it.
    """

    path: str
    before: str
    after: str
    tests: tuple[str, ...]
    where: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.where or f'{self.before.strip()!r} -> {self.after.strip()!r}'}"


def of(path: str, tests: str, *changes: tuple[str, str]) -> list[Mutant]:
    """Make the mutants of a module; tests are named below `tests/`, without their suffix."""
    files = tuple(f"tests/{name}.py" for name in tests.split())
    return [Mutant(path, before, after, files) for before, after in changes]
