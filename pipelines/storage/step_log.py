"""A log of lines about steps, in parts, since object storage cannot append.

A part is called by the attempt that wrote it and its number, `3-17.jsonl`, and never changes. As
parts become many, `compact` puts neighbours together, `3-1_3-64_320.jsonl` for the first and the
last and the number of lines: it writes the joined part and then deletes those it holds. Parts are
read in the order of their last; of a step that is there twice the later line counts. So a part that
a killed process left beside the joined one changes nothing.
"""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

from models.json_values import finite
from pipelines.storage import uris
from pipelines.storage.small_files import read_many, read_small, read_while_joined, remove_many

MANY = 64  # neighbours that are put together
LARGE = 20_000  # lines; with the parts of a week, ten of these and twice 63 smaller ones
_NAME = re.compile(r"(?:(\d+)-(\d+)_)?(\d+)-(\d+)(?:_(\d+))?\.jsonl")
Line = dict[str, Any]


@dataclass(frozen=True)
class LogPart:
    """A part, by its name.

    Attributes:
        last: Attempt and number; of a joined part those of the last it holds.
        first: The same of the first.
        lines: Of a joined part, how many; None: it is not joined.
    """

    last: tuple[int, int]
    first: tuple[int, int]
    lines: int | None = None

    @property
    def name(self) -> str:
        """Return the name of the file."""
        last = "{}-{}".format(*self.last)
        if self.lines is None:
            return f"{last}.jsonl"
        return "{}-{}_{}_{}.jsonl".format(*self.first, last, self.lines)

    @property
    def size(self) -> int:
        """Return which parts it is put together with: 0 single ones, 1 joined ones, 2 none."""
        return 0 if self.lines is None else 1 + (self.lines >= LARGE)

    def has_lines(self) -> bool:
        """Tell whether there is a step in it; an attempt begins with a part of none."""
        return self.last[1] > 0 if self.lines is None else self.lines > 0


def parts(folder: str) -> list[LogPart]:
    """List the parts of a log, in order; other files may lie beside them."""
    found = filter(None, map(_part, uris.list_names(folder)))
    # What a killed process left beside the joined part stays together: it is put away next time.
    return sorted(found, key=lambda part: (part.last, part.lines is not None))


def _part(name: str) -> LogPart | None:
    match = _NAME.fullmatch(name)
    if not match or (match[1] is None) != (match[5] is None):
        return None
    last = (int(match[3]), int(match[4]))
    if match[1] is None:
        return LogPart(last, last)
    return LogPart(last, (int(match[1]), int(match[2])), int(match[5]))


def write(folder: str, attempt: int, part: int, lines: Iterable[Line]) -> None:
    """Write one part."""
    place = uris.join(folder, LogPart((attempt, part), (attempt, part)).name)
    uris.write_bytes(place, to_json(lines))


def to_json(lines: Iterable[Line]) -> bytes:
    """Write lines as JSON, one each; null stands for a figure that is no number."""
    return "".join(json.dumps(finite(line), allow_nan=False) + "\n" for line in lines).encode()


def read(folder: str) -> list[Line]:
    """Read all lines, by step; of a step that was done again the later attempt counts."""
    return read_while_joined(partial(_names, folder), _is_joined, partial(_read, folder))


def _names(folder: str) -> list[str]:
    return [part.name for part in parts(folder)]


def _is_joined(name: str) -> bool:
    return "_" in name


def _read(folder: str, names: list[str]) -> list[Line]:
    lines: dict[int, Line] = {}
    for text in read_many(folder, names, read_small):
        lines |= {line["step"]: line for line in map(_line, text.decode().splitlines())}
    return [lines[step] for step in sorted(lines)]


def _line(text: str) -> Line:
    values: Line = json.loads(text)
    return {name: math.nan if value is None else value for name, value in values.items()}


def compact(folder: str) -> None:
    """Put neighbours together where there are many; others may write and read meanwhile."""
    for size in (0, 1):
        runs = groupby(parts(folder), key=lambda part: part.size)
        for run in [list(run) for found, run in runs if found == size]:
            for start in range(0, len(run) - MANY + 1, MANY):
                _join(folder, run[start : start + MANY])


def _join(folder: str, run: list[LogPart]) -> None:
    """Write one part that holds a run of neighbours, then delete them."""
    names = [part.name for part in run]
    try:
        lines = _read(folder, names)
    except FileNotFoundError:
        return  # somebody else is at it
    joined = LogPart(run[-1].last, min(part.first for part in run), len(lines)).name
    uris.write_bytes(uris.join(folder, joined), to_json(lines))
    remove_many(folder, [name for name in names if name != joined])
