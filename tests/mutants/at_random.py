"""Mutants that nobody has thought of: one operator or constant somewhere in the data plane."""

import ast
import random
from itertools import chain
from pathlib import Path

from tests.mutants.mutant import Mutant
from tests.mutants.stated import STATED

FOLDERS = (
    *("pipelines/storage", "pipelines/storage/clients", "pipelines/corpus", "pipelines/media"),
    *("pipelines/stream", "pipelines/labels"),
    *("pipelines/packing", "pipelines/embeddings", "jobs/training"),
)
_COMPARED = {
    "Lt": ">=",
    "LtE": ">",
    "Gt": "<=",
    "GtE": "<",
    "Eq": "!=",
    "NotEq": "==",
    "In": "not in",
    "NotIn": "in",
    "Is": "is not",
    "IsNot": "is",
}
_COMPUTED = {"Add": "-", "Sub": "+", "Mult": "+", "FloorDiv": "*"}


def chosen(root: Path, seed: int, count: int) -> list[Mutant]:
    """Draw mutants: a module by its length, then a place in it.

    Args:
        root: Of the tree.
        seed: Another seed, other mutants.
        count: How many.
    """
    found = [
        (path, node)
        for folder in FOLDERS
        for path in sorted((root / folder).glob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.expr) and _changed(node) is not None
    ]
    drawn = random.Random(seed).sample(found, count)
    return [_mutant(str(path.relative_to(root)), path.read_text(), node) for path, node in drawn]


def _mutant(name: str, source: str, node: ast.expr) -> Mutant:
    before = ast.get_source_segment(source, node) or ""
    # With all that comes before it: the same expression may stand in several places.
    lines = source.splitlines(keepends=True)
    indent = lines[node.lineno - 1].encode()[: node.col_offset].decode()
    above = "".join(lines[: node.lineno - 1]) + indent
    where = f"line {node.lineno}: {' '.join(before.split())} -> {_changed(node)}"
    return Mutant(name, above + before, f"{above}({_changed(node)})", tests_of(name), where)


def _changed(node: ast.AST) -> str | None:
    """Write an expression with its operator or constant changed; None for any other node."""
    match node:
        case ast.Compare(ops=[operator]):
            parts = ast.unparse(node.left), ast.unparse(node.comparators[0])
            return f" {_COMPARED[type(operator).__name__]} ".join(parts)
        case ast.BoolOp(op=operator):
            joined = " or " if isinstance(operator, ast.And) else " and "
            return joined.join(f"({ast.unparse(value)})" for value in node.values)
        case ast.BinOp(op=operator) if type(operator).__name__ in _COMPUTED:
            parts = f"({ast.unparse(node.left)})", f"({ast.unparse(node.right)})"
            return f" {_COMPUTED[type(operator).__name__]} ".join(parts)
        case ast.UnaryOp(op=ast.Not()):
            return ast.unparse(node.operand)
        case ast.Constant(value=bool(value)):
            return str(not value)
        case ast.Constant(value=int(value)):
            return str(value + 1)
        case ast.Constant(value=float(value)):
            return str(2 * value + 1)
    return None


def tests_of(path: str) -> tuple[str, ...]:
    """Return the tests that should notice a change of a module.

    These are the tests of its folder, and those that the stated mutants of the folder name.
    """
    folder = str(Path(path).parent)
    near = [mutant.tests for mutant in STATED if str(Path(mutant.path).parent) == folder]
    return tuple(sorted({f"tests/{folder}", *chain.from_iterable(near)}))
