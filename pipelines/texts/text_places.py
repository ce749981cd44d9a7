"""Where a text stands in its file, as the name of a member says it.

The rows of a manifest that are texts are byte ranges of files of many, as members of shards are:
their names tell what a range holds, and which of it is the text.
"""

import re
from typing import Literal, NamedTuple

Form = Literal["line", "object", "row"]
"""A line of plain text, a JSON object on a line, or a cell of a row of a CSV file."""

DEFAULT_COLUMNS = ("text", "sentence", "content")
"""Looked for, in this order, where nobody says which column or field is the text."""

_NAME = re.compile(r"(line|object|row) (\d+)(?:, (.*))?", re.DOTALL)


class TextPlace(NamedTuple):
    """A text's place.

    Attributes:
        form: What the range holds.
        number: Which of its file, from 1 on.
        column: Of an object: the field that is the text; empty: the first of `DEFAULT_COLUMNS` that
            is there. Of a row: the column's name.
    """

    form: Form
    number: int
    column: str = ""

    @property
    def name(self) -> str:
        """Return the name of the member."""
        return f"{self.form} {self.number}{f', {self.column}' if self.column else ''}"

    @classmethod
    def named(cls, name: str | None) -> "TextPlace":
        """Read the name of a member; any other is of a file that is one text."""
        found = _NAME.fullmatch(name or "")
        if found is None:
            return cls("line", 1)
        return cls(found[1], int(found[2]), found[3] or "")  # type: ignore[arg-type]
