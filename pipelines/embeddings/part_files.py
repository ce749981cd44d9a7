"""Where the parts of an export lie, as Parquet files or as the fragments of one Lance dataset.

embeddings/part-000000000000-000000008192.parquet    Parquet: a file a part
embeddings.lance/                                    Lance: the dataset, its data files as well
fragments/part-000000000000-000000008192.json        which of them a part is, written after it

A part is there when the file of its name is. What a killed task left of a Lance data file is in no
fragment and nobody reads it. The dataset is committed once, when all parts are there.
"""

import json
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

import pyarrow as pa

from pipelines.embeddings import lance_files
from pipelines.embeddings.parts import Range, part_name, rows_of
from pipelines.embeddings.stored import FOLDER, LANCE
from pipelines.storage import uris
from pipelines.storage.lease import Fence
from pipelines.storage.parquet_files import open_parquet, write_table
from pipelines.storage.small_files import read_many, read_small

Format = Literal["parquet", "lance"]
FRAGMENTS = "fragments"


class PartFiles(Protocol):
    """Reads and writes the parts of an export."""

    @property
    def place(self) -> str:
        """Return what others open."""

    def there(self) -> list[Range]:
        """List the parts that are there, by the stored rows that they answer for, ascending."""

    def write(self, rows: Range, table: pa.Table, fence: Fence | None) -> None:
        """Write a part whole, or replace it; nothing where the lease is lost."""

    def read(self, rows: Range, columns: list[str] | None = None) -> pa.Table:
        """Read a part."""

    def remove(self, rows: Range) -> None:
        """Take a part away, so that it is written anew."""

    def finish(self, schema: pa.Schema) -> None:
        """Make all parts that are there visible to others, at once."""


def part_files(out: str, kind: Format) -> PartFiles:
    """Return the files of an export in a folder.

    Raises:
        ValueError: the library of the format is not installed.
    """
    if kind == "lance":
        lance_files.check_installed()
        return LanceParts(out)
    return ParquetParts(out)


@dataclass(frozen=True)
class ParquetParts:
    """A folder of Parquet files.

    Attributes:
        out: Of the export.
    """

    out: str

    @property
    def place(self) -> str:
        """Return the folder."""
        return uris.join(self.out, FOLDER)

    def there(self) -> list[Range]:
        """List the parts."""
        return _ranges(uris.list_names(self.place))

    def write(self, rows: Range, table: pa.Table, fence: Fence | None) -> None:
        """Write a part under its name in one step."""
        write_table(uris.join(self.place, part_name(rows)), table, fence)

    def read(self, rows: Range, columns: list[str] | None = None) -> pa.Table:
        """Read a part."""
        with open_parquet(uris.join(self.place, part_name(rows))) as file:
            return file.read(columns=columns)

    def remove(self, rows: Range) -> None:
        """Delete a part's file."""
        uris.remove(uris.join(self.place, part_name(rows)))

    def finish(self, schema: pa.Schema) -> None:
        """Do nothing: a file that is there is visible."""


@dataclass(frozen=True)
class LanceParts:
    """The fragments of a Lance dataset.

    Attributes:
        out: Of the export.
    """

    out: str

    @property
    def place(self) -> str:
        """Return the dataset."""
        return uris.join(self.out, LANCE)

    @property
    def _records(self) -> str:
        return uris.join(self.out, FRAGMENTS)

    def there(self) -> list[Range]:
        """List the parts whose fragments are whole, committed or not."""
        return _ranges(uris.list_names(self._records))

    def write(self, rows: Range, table: pa.Table, fence: Fence | None) -> None:
        """Write a data file, then the record that makes it a part."""
        place, options = lance_files.place_of(self.place)
        # "overwrite" writes data files, and commits nothing, whatever is there.
        written = lance_files.library().fragment.write_fragments(
            table,
            place,
            schema=table.schema,
            mode="overwrite",
            max_rows_per_file=max(table.num_rows, 1),
            storage_options=options,
        )
        if fence:
            fence.check()
        told = json.dumps([fragment.to_json() for fragment in written]).encode()
        uris.write_bytes(uris.join(self._records, part_name(rows, ".json")), told)

    def read(self, rows: Range, columns: list[str] | None = None) -> pa.Table:
        """Read a part from its data files, committed or not."""
        record = uris.join(self._records, part_name(rows, ".json"))
        place, options = lance_files.place_of(self.place)
        tables = []
        for fragment in json.loads(uris.read_bytes(record)):
            (file,) = fragment["files"]
            reader = lance_files.library().file.LanceFileReader(
                f"{place}/data/{file['path']}", storage_options=options, columns=columns
            )
            tables.append(reader.read_all().to_table())
        return pa.concat_tables(tables)

    def remove(self, rows: Range) -> None:
        """Delete the record that makes fragments a part."""
        uris.remove(uris.join(self._records, part_name(rows, ".json")))

    def finish(self, schema: pa.Schema) -> None:
        """Commit all fragments as the next version of the dataset, the one before as it was."""
        lance = lance_files.library()
        names = [part_name(rows, ".json") for rows in self.there()]
        records = read_many(self._records, names, partial(_fragments, lance))
        fragments = [fragment for record in records for fragment in record]
        place, options = lance_files.place_of(self.place)
        lance.LanceDataset.commit(
            place,
            lance.LanceOperation.Overwrite(schema, fragments),
            read_version=self._version(),
            storage_options=options,
        )

    def _version(self) -> int:
        """Return the newest version of the dataset, 0 where it has none."""
        if not uris.list_names(uris.join(self.place, lance_files.VERSIONS)):
            return 0
        return int(lance_files.open_dataset(self.place).version)


def _fragments(lance: Any, uri: str) -> list[Any]:
    read = json.loads(read_small(uri))
    return [lance.FragmentMetadata.from_json(json.dumps(fragment)) for fragment in read]


def _ranges(names: list[str]) -> list[Range]:
    return sorted(rows for name in names if (rows := rows_of(name)) is not None)
