"""Tables of labels: CSV, JSONL or Parquet files with a row a sample, `uri,label[,split][,group]`.

A row may have several labels: a list in JSONL and Parquet, or a text with a separator in it.
"""

import codecs
import csv
import io
import json
import posixpath
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from augment.frozen import Frozen
from pipelines.corpus.file_kinds import suffix_of
from pipelines.labels.labelled_rows import LeftOutNames, nfc
from pipelines.storage import uris

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
URI_NAMES = ("uri", "file", "path", "filename", "file_name", "image")
_LABEL_NAMES = ("label", "labels")
_MASK = "mask"
_DELIMITERS = ",;\t"
_SEPARATORS = {"bar": "|", "semicolon": ";", "comma": ",", "space": " ", "none": None}
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
NO_URI = "row without a uri"
NO_LABEL = "row without a label"
NO_OBJECT = "line that is no JSON object"
UNEVEN = "row with more or fewer fields than the header"
AGAIN = "repeated row"
CONFLICT = "rows of one uri with different labels"
ODD_LABEL = "label that is neither text nor number"
ODD_SPLIT = "split that is none of train, val, test"
_SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
_SPLIT_OF = {word: split for split, words in _SPLITS.items() for word in words}


class Columns(Frozen):
    """Which columns of a table of labels hold what."""

    uri: str | None = Field(
        None, min_length=1, description="of the sample; null: uri, file, path, filename or image"
    )
    text: str | None = Field(
        None,
        min_length=1,
        description="of .csv and .tsv: a text that is the sample itself, in place of a uri",
    )
    label: str | None = Field(
        None, min_length=1, description="its class or classes; null: label or labels"
    )
    split: str | None = Field(
        None, min_length=1, description="train, val or test; null: split where there is one"
    )
    group: str | None = Field(
        None,
        min_length=1,
        description="what must not be on both sides, as patient; null: group where there is one",
    )
    mask: str | None = Field(
        None, min_length=1, description="uri of its mask; null: mask where there is one"
    )
    separator: Literal["bar", "semicolon", "comma", "space", "none"] = Field(
        "bar", description="what stands between several labels in one text, as cat|dog"
    )
    encoding: str | None = Field(
        None, min_length=1, description="of CSV and JSONL; null: by the byte order mark, or UTF-8"
    )

    @property
    def mark(self) -> str | None:
        """Return the separator itself; None for none."""
        return _SEPARATORS[self.separator]


class Record(NamedTuple):
    """One row of a table.

    Attributes:
        uri: As it stands there.
        labels: Its classes.
        split: train, val, test or None.
        group: Its group or None.
        mask: URI of its mask, as it stands there.
    """

    uri: str
    labels: tuple[str, ...]
    split: str | None = None
    group: str | None = None
    mask: str | None = None


@dataclass(frozen=True)
class LabelTable:
    """What a table says.

    Attributes:
        records: One a sample, in order.
        left_out: Rows that say nothing.
    """

    records: list[Record]
    left_out: LeftOutNames = field(default_factory=LeftOutNames)


def read_label_table(uri: str, columns: Columns, *, wants_labels: bool = True) -> LabelTable:
    """Read a table of labels from any storage.

    Args:
        uri: A file with a suffix of `SUFFIXES`.
        columns: Which columns hold what.
        wants_labels: Whether a row without a label is none; not so where masks or boxes are judged.

    Raises:
        ValueError: it cannot be read, or has not the columns; with the remedy.
    """
    left_out = LeftOutNames()
    names, rows = read_rows(uri, columns, left_out)
    chosen = _chosen(uri, names, columns, wants_labels=wants_labels)
    found = list(_records(rows, chosen, columns, left_out, wants_labels=wants_labels))
    return LabelTable(_once(found, uri, left_out), left_out)


def read_rows(
    uri: str, columns: Columns, left_out: LeftOutNames
) -> tuple[list[str], Iterable[dict[str, Any]]]:
    """Read the columns' names and the rows of a table, by what its suffix says.

    Args:
        uri: A file with a suffix of `SUFFIXES`.
        columns: Its encoding, and the column by which a CSV file's delimiter is found.
        left_out: Takes the lines that are no rows.

    Raises:
        ValueError: it cannot be read; with the remedy.
    """
    suffix = suffix_of(uri)
    if suffix == ".parquet":
        return _parquet(uri)
    if suffix in (".jsonl", ".ndjson"):
        return _json_lines(_text(uri, columns.encoding), left_out)
    return _csv(uri, _text(uri, columns.encoding), columns, left_out)


def labels_of(value: object, separator: str | None) -> tuple[str, ...] | None:
    """Read one or several class names out of a cell; None where it is neither text nor number."""
    if value is None or value != value:  # a number that is none stands for no label
        return ()
    if isinstance(value, list | tuple):
        parts = [labels_of(one, None) for one in value]
        flat = [name for part in parts if part is not None for name in part]
        return None if None in parts else tuple(dict.fromkeys(flat))
    if isinstance(value, bool | str):
        text = str(value)
    elif isinstance(value, int | float):
        text = str(int(value)) if value == int(value) else str(value)
    else:
        return None
    parts_of_text = text.split(separator) if separator else [text]
    names = (nfc(part.strip()) for part in parts_of_text)
    return tuple(dict.fromkeys(name for name in names if name))


def split_of(value: object) -> str | None:
    """Read a split; empty for none, None where the word is not known."""
    word = "" if value is None else str(value).strip().casefold()
    return _SPLIT_OF.get(word) if word else ""


def _text(uri: str, encoding: str | None) -> str:
    data = uris.read_bytes(uri)
    if encoding is None:
        encoding = next((name for mark, name in _BOMS if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except LookupError:
        raise ValueError(f"columns.encoding {encoding} is not known: as utf-8 or cp1252") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"source.uri {uri} is not {encoding} (line {line}): say what it is with"
            " columns.encoding, as cp1252"
        ) from None


def _csv(
    uri: str, text: str, columns: Columns, left_out: LeftOutNames
) -> tuple[list[str], Iterator[dict[str, Any]]]:
    """Read a header and rows; the delimiter is the one under which the header has a column that is
    looked for."""
    wanted = {columns.uri} if columns.uri else set(URI_NAMES)
    head = next((line for line in text.splitlines() if line.strip()), "")
    fields = {
        mark: [name.strip() for name in next(csv.reader([head], delimiter=mark), [])]
        for mark in _DELIMITERS
    }
    marks = [mark for mark, names in fields.items() if wanted & {n.casefold() for n in names}]
    mark = (marks or [","])[0]
    names = fields[mark]
    if len(set(names)) < len(names):
        again = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"source.uri {uri} has two columns {again!r}: name each differently")
    return names, _csv_rows(uri, text, mark, names, left_out)


def _csv_rows(
    uri: str, text: str, mark: str, names: list[str], left_out: LeftOutNames
) -> Iterator[dict[str, Any]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
    begun = False
    try:
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if not begun:
                begun = True  # the header
            elif len(row) != len(names):
                left_out.add(UNEVEN, f"line {reader.line_num}")
            else:
                yield dict(zip(names, row, strict=True))
    except csv.Error as error:
        raise ValueError(
            f"source.uri {uri} is no CSV (line {reader.line_num}: {error}): mend it"
        ) from None


def _json_lines(text: str, left_out: LeftOutNames) -> tuple[list[str], list[dict[str, Any]]]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if isinstance(row, dict):
                rows.append(row)
            else:
                left_out.add(NO_OBJECT, f"line {number}")
    return list(dict.fromkeys(name for row in rows for name in row)), rows


def _parquet(uri: str) -> tuple[list[str], Iterator[dict[str, Any]]]:
    try:
        file = pq.ParquetFile(pa.BufferReader(uris.read_bytes(uri)))
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"source.uri {uri} is no Parquet file: {str(error).splitlines()[0]}"
        ) from None
    names = file.schema_arrow.names
    batches = file.iter_batches()
    return names, (row for batch in batches for row in batch.to_pylist())


def _chosen(uri: str, names: list[str], columns: Columns, *, wants_labels: bool) -> dict[str, str]:
    """Return which column holds what of those that are there.

    Raises:
        ValueError: one that is asked for, or needed, is not there.
    """
    defaults = {"uri": URI_NAMES, "label": _LABEL_NAMES}
    chosen = {}
    for what in ("uri", "label", "split", "group", "mask"):
        given = getattr(columns, what)
        wanted = (given,) if given else defaults.get(what, (what,))
        known = {name.casefold(): name for name in reversed(names)}
        found = [name for name in wanted if name in names]
        found = found or [known[name] for name in wanted if name in known]
        needed = given or what == "uri" or (what == "label" and wants_labels)
        if found:
            chosen[what] = found[0]
        elif needed:
            masks = what == "label" and _MASK in known
            raise ValueError(
                f"source.uri {uri} has no column {' or '.join(wanted[:3])} (it has"
                f" {', '.join(names[:8]) or 'none'}): name the column with columns.{what}"
                + (f", or give columns.mask={known[_MASK]} to judge masks" if masks else "")
            )
    return chosen


def _records(
    rows: Iterable[Mapping[str, Any]],
    chosen: dict[str, str],
    columns: Columns,
    left_out: LeftOutNames,
    *,
    wants_labels: bool,
) -> Iterator[Record]:
    for number, row in enumerate(rows, start=1):
        cells = {what: row.get(name) for what, name in chosen.items()}
        uri = cells["uri"]
        labels = labels_of(cells.get("label"), columns.mark)
        split = split_of(cells.get("split"))
        if not isinstance(uri, str) or not uri.strip():
            left_out.add(NO_URI, f"row {number}")
        elif labels is None:
            left_out.add(ODD_LABEL, uri)
        elif wants_labels and not labels:
            left_out.add(NO_LABEL, uri)
        elif split is None:
            left_out.add(ODD_SPLIT, uri)
        else:
            group = _word(cells.get("group"))
            yield Record(uri.strip(), labels, split or None, group, _word(cells.get("mask")))


def _word(value: object) -> str | None:
    """Return a cell as a name; None for an empty one."""
    names = labels_of(value, None)
    return names[0] if names else None


def _once(records: list[Record], table: str, left_out: LeftOutNames) -> list[Record]:
    """Keep one of the rows that say the same of a file, however they spell its place, and none of a
    file whose rows contradict each other."""
    first: dict[str, Record] = {}
    conflicts: set[str] = set()
    for record in records:
        place = nfc(place_of(record.uri, table))
        known = first.setdefault(place, record)
        if known is not record:
            if _meaning(known, table) == _meaning(record, table):
                left_out.add(AGAIN, record.uri)
            else:
                conflicts.add(place)
    left_out.add_all(CONFLICT, [one.uri for place, one in first.items() if place in conflicts])
    return [record for place, record in first.items() if place not in conflicts]


def _meaning(record: Record, table: str) -> tuple[object, ...]:
    """Return what a row says of its file, to be compared."""
    mask = nfc(place_of(record.mask, table)) if record.mask else None
    return set(record.labels), record.split, record.group, mask


def place_of(uri: str, table: str) -> str:
    """Return the place of a file that a table names, relative to the table's folder."""
    if "://" in uri or uri.startswith("/"):
        return uris.absolute(uri)
    folder = f"{table.rpartition('/')[0]}/"
    if uris.is_local(folder):
        return uris.absolute(folder + uri)
    scheme, _, path = folder.partition("://")
    return f"{scheme}://{posixpath.normpath(path + uri)}"


def read_class_names(uri: str) -> dict[int, str]:
    """Read which class each index of a mask is: a CSV file with the columns index and name.

    Raises:
        ValueError: it cannot be read, or has not the columns.
    """
    text = _text(uri, None)
    rows = [row for row in csv.reader(io.StringIO(text, newline="")) if any(map(str.strip, row))]
    head = [name.strip().casefold() for name in rows[0]] if rows else []
    if "index" not in head or "name" not in head:
        raise ValueError(f"source.uri {uri} must be a CSV file with the columns index and name")
    names: dict[int, str] = {}
    for number, row in enumerate(rows[1:], start=2):
        try:
            names[int(row[head.index("index")])] = nfc(row[head.index("name")].strip())
        except (ValueError, IndexError):
            raise ValueError(f"source.uri {uri}: row {number} has no index and name") from None
    return names
