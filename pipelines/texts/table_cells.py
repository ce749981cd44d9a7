"""The cells of some columns of a table, row by row, as places in its file."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipelines import schema
from pipelines.corpus.entry import Entry
from pipelines.corpus.file_kinds import TABLE_SUFFIXES, suffix_of
from pipelines.corpus.listed_rows import sample_id
from pipelines.corpus.listing import look_up
from pipelines.labels.labelled_rows import LeftOutNames
from pipelines.media.contract import BadSample
from pipelines.storage import uris
from pipelines.texts.text_files import texts_in
from pipelines.texts.text_places import TextPlace
from pipelines.texts.text_tokens import text_of

_Place = tuple[int, int]  # first byte and how many


@dataclass(frozen=True)
class TableCells:
    """A table of which each row's cells are known by their places.

    Attributes:
        file: The table.
        data: Its bytes.
        rows: Number of each row to the cells of those columns that it has.
        left_out: What is no cell, by reason.
    """

    file: Entry
    data: bytes
    rows: dict[int, dict[str, _Place]]
    left_out: LeftOutNames

    def says(self, row: int, column: str) -> str | None:
        """Return what a cell says; None where there is none, or no text in it."""
        if column not in self.rows[row]:
            return None
        offset, length = self.rows[row][column]
        try:
            return text_of(self.data[offset : offset + length], TextPlace("row", row))
        except BadSample:
            return None

    def sample(self, row: int, column: str) -> dict[str, Any]:
        """Return the manifest row of a cell that is a text."""
        offset, length = self.rows[row][column]
        name = TextPlace("row", row, column).name
        return {
            schema.SAMPLE_ID: sample_id(self.file.uri, name, self.file.etag),
            schema.URI: self.file.uri,
            schema.OFFSET: offset,
            schema.LENGTH: length,
            schema.MEMBER: name,
            "etag": self.file.etag,
            schema.MEDIA: schema.TEXT,
            schema.CLIP: None,
        }


def read_cells(uri: str, columns: Sequence[str], key: str) -> TableCells:
    """Read where the cells of a table lie.

    Args:
        uri: The table.
        columns: Of the cells, all of which it must have.
        key: Keys that name columns, for the remedy.

    Raises:
        ValueError: it is no such table; with the remedy.
    """
    if suffix_of(uri) not in TABLE_SUFFIXES:
        raise ValueError(f"source.uri {uri} must be a table: {' or '.join(TABLE_SUFFIXES)}")
    file = look_up(uri)
    left_out = LeftOutNames()
    rows = defaultdict[int, dict[str, _Place]](dict)
    for member in texts_in(uri, file.size, columns):
        if member.name is None:
            why = member.message or member.problem
            raise ValueError(f"source.uri {uri}: {why}: name its columns with {key}")
        if member.problem is not None:
            left_out.add(member.problem, member.name)
            continue
        place = TextPlace.named(member.name)
        rows[place.number][place.column] = (member.offset, member.length)
    return TableCells(file, uris.read_bytes(uri), dict(rows), left_out)
