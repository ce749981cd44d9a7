"""What one labelled source holds: its samples with the names of their classes, and what is none of
them, counted and named."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import schema
from pipelines.corpus.left_out import MOST_COUNTED, OTHERS

EXAMPLES = 3  # of what was left out, named for each reason


@dataclass(frozen=True)
class LeftOutNames:
    """What is no labelled sample.

    Attributes:
        counts: By reason.
        names: The first few of each reason.
    """

    counts: Counter[str] = field(default_factory=Counter)
    names: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, name: str) -> None:
        """Count one."""
        if reason not in self.counts and len(self.counts) >= MOST_COUNTED:
            reason = OTHERS
        self.counts[reason] += 1
        shown = self.names.setdefault(reason, [])
        if len(shown) < EXAMPLES:
            shown.append(name)

    def add_all(self, reason: str, names: Iterable[str]) -> None:
        """Count several of one reason."""
        for name in names:
            self.add(reason, name)

    def __add__(self, other: "LeftOutNames") -> "LeftOutNames":
        names = {
            reason: (self.names.get(reason, []) + other.names.get(reason, []))[:EXAMPLES]
            for reason in [*self.names, *other.names]
        }
        return LeftOutNames(self.counts + other.counts, names)


@dataclass(frozen=True)
class LabelledRows:
    """The samples of one labelled source.

    Attributes:
        rows: Schema `schema.NAMED`, by place.
        left_out: What is none of them.
        empty: Classes without a sample, sorted.
    """

    rows: pa.Table
    left_out: LeftOutNames = field(default_factory=LeftOutNames)
    empty: list[str] = field(default_factory=list)

    @property
    def classes(self) -> list[str]:
        """Return the names of all classes that its samples or their boxes have, sorted."""
        return sorted(set(_flat(self.rows[schema.LABELS])) | set(_flat(self.rows[schema.BOXES])))

    @property
    def names(self) -> list[str]:
        """Return the path of each sample below its source."""
        names: list[str] = self.rows[schema.NAME].to_pylist()
        return names

    def without(self, gone: np.ndarray, reason: str) -> "LabelledRows":
        """Leave out some of the samples, for a reason.

        Args:
            gone: (N,) bool.
            reason: What to count them under.
        """
        if not gone.any():
            return self
        left_out = self.left_out + LeftOutNames()
        left_out.add_all(reason, self.rows[schema.NAME].filter(pa.array(gone)).to_pylist())
        return replace(self, rows=self.rows.filter(pa.array(~gone)), left_out=left_out)


def _flat(lists: pa.ChunkedArray) -> list[str]:
    """Return the distinct names in a column of lists of names or of boxes."""
    values = lists.combine_chunks().flatten()
    if pa.types.is_struct(values.type):
        values = values.field(schema.LABEL)
    return [str(name) for name in pc.unique(values).to_pylist()]


def nfc(text: str) -> str:
    """Return a name in Unicode's composed form, in which all names are compared."""
    return unicodedata.normalize("NFC", text)


def forms_of(text: str) -> list[str]:
    """Return a name as it stands and in Unicode's two forms: the disk may have either."""
    forms = [unicodedata.normalize(form, text) for form in ("NFC", "NFD")]
    return list(dict.fromkeys([text, *forms]))


def named_rows(listed: pa.Table, columns: Mapping[str, Any]) -> pa.Table:
    """Join manifest rows and what is said of them to schema `schema.NAMED`; what is not given is
    null."""
    arrays = []
    for one in schema.NAMED:
        if one.name in schema.MANIFEST.names:
            arrays.append(listed[one.name].cast(one.type))
        elif one.name in columns:
            values = columns[one.name]
            arrays.append(
                values.cast(one.type)
                if isinstance(values, pa.Array | pa.ChunkedArray)
                else pa.array(values, one.type)
            )
        else:
            arrays.append(pa.nulls(listed.num_rows, one.type))
    return pa.Table.from_arrays(arrays, schema=schema.NAMED)


def with_column(rows: pa.Table, name: str, values: list[Any]) -> pa.Table:
    """Replace the values of a column, of the same type."""
    index = rows.schema.get_field_index(name)
    kind = rows.schema.field(index)
    return rows.set_column(index, kind, pa.array(values, kind.type))


def below(root: str, uri: str, member: str | None) -> str:
    """Return the path of a file below a folder that ends in a slash; a member of a shard counts as
    unpacked where the shard lies."""
    path = uri.removeprefix(root)
    if member is not None:
        folder = path.rpartition("/")[0]
        path = f"{folder}/{member.lstrip('/')}" if folder else member.lstrip("/")
    parts: list[str] = []
    for part in path.split("/"):
        if part == ".." and parts:
            parts.pop()
        elif part not in ("", ".", ".."):
            parts.append(part)
    return nfc("/".join(parts))
