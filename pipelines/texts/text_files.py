"""Finds the texts of files of many: a line each, or a cell of each row of a CSV file, as byte
ranges.

Files are read once, from end to end, by pieces: of a line only its place is kept, however long it
is. What a line holds is looked at when it is its turn.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from pipelines.corpus.file_kinds import OBJECT_SUFFIXES, TABLE_SUFFIXES, suffix_of
from pipelines.corpus.tar_members import Member
from pipelines.storage import uris
from pipelines.texts.text_places import DEFAULT_COLUMNS, Form, TextPlace

PIECE_BYTES = 8 << 20  # read at a time
MOST_ROW_BYTES = 1 << 20  # of a row of a table: a quote that is never closed takes in all the rest
EMPTY_LINE = "empty line"
EMPTY_CELL = "empty cell"
UTF_16 = "no UTF-8 but UTF-16 (convert it)"
NO_COLUMN = "no such column (source.text_columns)"
NO_CELL = "row without the column"
LONG_ROW = "row of more than 1 MiB (a quote that is not closed?)"
_NEW_LINE = 10
_MOST_KEPT = MOST_ROW_BYTES + 1
_BOM = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_DELIMITERS = (",", ";", "\t", "|")


class _Line(NamedTuple):
    """A line of a file.

    Attributes:
        first: Its first byte.
        length: Its bytes, the line's end left out.
        data: The first of them, `MOST_ROW_BYTES` and one more at most.
    """

    first: int
    length: int
    data: bytes


def texts_in(uri: str, size: int, columns: Sequence[str]) -> Iterator[Member]:
    """Find the texts of a file.

    Args:
        uri: A file with a suffix of `TEXT_SUFFIXES`.
        size: Its bytes.
        columns: Columns of a table, or fields of objects, that are texts; each is a sample by
            itself. None: the first of `DEFAULT_COLUMNS` that is there.

    Yields:
        A member for each, named by `TextPlace`, or with the problem why it is no sample.

    Raises:
        OSError: the storage failed.
    """
    start = uris.read_range(uri, 0, min(len(_BOM), size))
    if start.startswith(_UTF_16):
        yield Member(None, 0, size, problem=UTF_16)
        return
    lines = _lines(uri, len(_BOM) if start == _BOM else 0, size)
    suffix = suffix_of(uri)
    if suffix in TABLE_SUFFIXES:
        yield from _cells(lines, size, columns, "\t" if suffix == ".tsv" else None)
        return
    form: Form = "object" if suffix in OBJECT_SUFFIXES else "line"
    fields = columns if form == "object" and columns else ("",)
    for number, line in enumerate(lines, start=1):
        problem = None if line.data.strip() else EMPTY_LINE
        for field in fields:
            name = TextPlace(form, number, field).name
            yield Member(name, line.first, line.length, problem=problem)


def _lines(uri: str, begin: int, size: int) -> Iterator[_Line]:
    """Find the lines of a file from a byte on."""
    first = begin
    kept = b""  # of a line that began in an earlier piece
    for start in range(begin, size, PIECE_BYTES):
        piece = uris.read_range(uri, start, min(start + PIECE_BYTES, size))
        read = 0
        for end in np.flatnonzero(np.frombuffer(piece, np.uint8) == _NEW_LINE).tolist():
            yield _line(first, start + end, kept + piece[read : min(end, read + _MOST_KEPT)])
            first, read, kept = start + end + 1, end + 1, b""
        kept += piece[read : read + max(0, _MOST_KEPT - len(kept))]
    if first < size:
        yield _line(first, size, kept)


def _line(first: int, end: int, data: bytes) -> _Line:
    return _Line(first, end - first, data[:_MOST_KEPT])


def _cells(
    lines: Iterator[_Line], size: int, columns: Sequence[str], mark: str | None
) -> Iterator[Member]:
    """Find the cells of the columns in a table, whose header is its first line."""
    head = next((line for line in lines if line.data.strip()), None)
    if head is None:
        return
    mark, names = _header(head.data, columns, mark)
    wanted = list(columns) or [name for name in DEFAULT_COLUMNS if name in names][:1]
    missing = [name for name in wanted or DEFAULT_COLUMNS[:1] if name not in names]
    if missing:
        has = f"no column {', '.join(missing)}; it has {', '.join(names[:8])}"
        yield Member(None, 0, size, problem=NO_COLUMN, message=has)
        return
    indices = [(names.index(name), name) for name in wanted]
    for number, row in enumerate(_rows(lines, mark.encode()), start=1):
        problem = None if row.data.strip() else EMPTY_LINE
        problem = LONG_ROW if len(row.data) > MOST_ROW_BYTES else problem
        if problem:
            name = TextPlace("row", number).name
            yield Member(name, row.first, row.length, problem=problem)
            continue
        cells = _cut(row.data, mark.encode())
        for index, name in indices:
            yield _cell(row, TextPlace("row", number, name).name, cells[index : index + 1])


def _cell(row: _Line, name: str, found: list[tuple[int, int]]) -> Member:
    """Address a cell of a row; where there is none, the row."""
    if not found:
        return Member(name, row.first, row.length, problem=NO_CELL)
    first, end = found[0]
    problem = EMPTY_CELL if row.data[first:end].strip() in (b"", b'""') else None
    return Member(name, row.first + first, end - first, problem=problem)


def _header(line: bytes, columns: Sequence[str], mark: str | None) -> tuple[str, list[str]]:
    """Return the delimiter, by which the header has a column that is looked for, and its names."""
    marks = [mark] if mark else _DELIMITERS
    wanted = set(columns or DEFAULT_COLUMNS)
    data = line.rstrip(b"\r")
    cut = {
        one: [
            unquoted(data[slice(*cell)].decode("utf-8", "replace"))
            for cell in _cut(data, one.encode())
        ]
        for one in marks
    }
    found = next((one for one in marks if wanted & set(cut[one])), marks[0])
    return found, cut[found]


def _rows(lines: Iterable[_Line], mark: bytes) -> Iterator[_Line]:
    """Join lines in which a quote goes on; where it never ends, the first is a row by itself."""
    rest = iter(lines)
    again = deque[_Line]()

    def following() -> _Line | None:
        return again.popleft() if again else next(rest, None)

    while (line := following()) is not None:
        open_quote = _goes_on(line.data, mark, inside=False)
        taken = list[_Line]()
        row = line
        while open_quote and row.length <= MOST_ROW_BYTES and (more := following()) is not None:
            taken.append(more)
            open_quote = _goes_on(more.data, mark, inside=True)
            row = _Line(row.first, row.length + 1 + more.length, row.data + b"\n" + more.data)
        if open_quote:
            again.extendleft(reversed(taken))
            # so long that it is told of
            row = line._replace(data=line.data.ljust(_MOST_KEPT))
        yield row


def _goes_on(line: bytes, mark: bytes, *, inside: bool) -> bool:
    """Tell whether a quote is open at the end of a line, which began in one or not."""
    if b'"' not in line:
        return inside
    place = 0
    while True:
        if not inside and line[place : place + 1] == b'"':
            inside = True
            place += 1
        if inside:
            place = _behind_quote(line, place)
            if place < 0:
                return True
            inside = False
        place = line.find(mark, place) + 1
        if not place:
            return False


def _behind_quote(line: bytes, place: int) -> int:
    """Find the end of a quote that is open at a place; -1 where it goes on. Two quotes are one that
    is meant."""
    while (found := line.find(b'"', place)) >= 0:
        if line[found + 1 : found + 2] != b'"':
            return found + 1
        place = found + 2
    return -1


def _cut(row: bytes, mark: bytes) -> list[tuple[int, int]]:
    """Cut a row into its cells, quotes included."""
    cells = list[tuple[int, int]]()
    first = 0
    while True:
        quoted = row[first : first + 1] == b'"'
        behind = _behind_quote(row, first + 1) if quoted else first
        end = row.find(mark, behind) if behind >= 0 else -1
        cells.append((first, len(row) if end < 0 else end))
        if end < 0:
            return cells
        first = end + 1


def unquoted(cell: str) -> str:
    """Return what a cell of a CSV file says."""
    cell = cell.strip()
    if len(cell) > 1 and cell[0] == cell[-1] == '"':
        cell = cell[1:-1].replace('""', '"')
    return cell.strip()
