"""Columns that rows of an export have beside their vectors: those of the manifest, and labels,
captions and JSON objects that lie beside samples, in shards and as loose files."""

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import schema
from pipelines.corpus.manifest import Manifest
from pipelines.labels.class_folders import names_below, root_of_names
from pipelines.labels.label_tables import Columns
from pipelines.labels.sidecars import told
from pipelines.packing.texts_beside import MAX_BYTES, TextsBeside
from pipelines.storage import uris
from pipelines.storage.small_files import side_by_side
from pipelines.stream.fetch import Fetched, fetch

# Name of the column to the suffixes of what it is read of, the first that tells something.
TEXTS = {"label": ("cls", "json"), "caption": ("txt",), "json": ("json",)}
LOOKED_INTO = 64  # JSON files that are read to learn whether any holds a label
_PLACE = (schema.URI, schema.MEMBER)
_Place = tuple[str, str | None]


@dataclass(frozen=True)
class Carried:
    """Columns that come along.

    Attributes:
        names: Of columns of the manifest, or of `TEXTS`.
        manifest: Where they are from.
        root: Folder below which a sample's first folder is its label; None: labels lie beside
            samples.
    """

    names: tuple[str, ...]
    manifest: Manifest
    root: str | None = None

    @classmethod
    def of_manifest(cls, names: tuple[str, ...], manifest: Manifest) -> "Carried":
        """Find out where labels are: where files beside samples hold some, in these, else in the
        names of folders."""
        by_folder = "label" in names and not labels_beside(manifest)
        return cls(names, manifest, root_of_names(manifest.source) if by_folder else None)

    @classmethod
    def possible(cls, manifest: Manifest) -> list[str]:
        """Return the names that a manifest can carry, those left out that every row has."""
        own = {*schema.embeddings({}, []).names, *TEXTS}
        return [*TEXTS, *(name for name in manifest.columns if name not in own)]

    @property
    def fields(self) -> list[pa.Field]:
        """Return the fields of the columns."""
        kinds = {one.name: one.type for one in schema.MANIFEST}
        return [pa.field(name, kinds.get(name, pa.string())) for name in self.names]

    def of(self, rows: pa.Table) -> dict[str, pa.ChunkedArray | pa.Array]:
        """Return the columns of manifest rows; null where there is nothing."""
        columns = {name: rows[name] for name in self.names if name not in TEXTS}
        texts = [name for name in self.names if name in TEXTS]
        if self.root is not None:
            columns["label"] = _first_folders(rows, self.root)
            texts.remove("label")
        if not texts:
            return columns
        # Every frame of a clip may be a row: each sample is read once.
        of_row = list(zip(*(rows[name].to_pylist() for name in _PLACE), strict=True))
        places = list(dict.fromkeys(of_row))
        number = {place: at for at, place in enumerate(places)}
        take = pa.array([number[place] for place in of_row], pa.int64())
        for name, values in self._texts(places, texts).items():
            columns[name] = pa.array(values, pa.string()).take(take)
        return columns

    def _texts(self, places: list[_Place], names: list[str]) -> dict[str, list[str | None]]:
        """Read what lies beside samples."""
        suffixes = list(dict.fromkeys(chain.from_iterable(TEXTS[name] for name in names)))
        found = [dict[str, bytes]() for _ in places]
        loose = [at for at, place in enumerate(places) if place[1] is None]
        _read_loose(places, loose, suffixes, found)
        members = [at for at, place in enumerate(places) if place[1] is not None]
        if members:
            self._read_members(places, members, suffixes, found)
        return {name: [_text(one, name) for one in found] for name in names}

    def _read_members(
        self,
        places: list[_Place],
        members: list[int],
        suffixes: list[str],
        found: list[dict[str, bytes]],
    ) -> None:
        """Read the texts of members of shards, in few requests."""
        shards = [places[at][0] for at in members]
        beside = TextsBeside(self.manifest).of(shards, [places[at][1] for at in members])
        wanted = [
            (at, shard, one)
            for at, shard, several in zip(members, shards, beside.to_pylist(), strict=True)
            for one in several
            if one["suffix"] in suffixes
        ]
        read = _fetched(
            [(shard, one[schema.OFFSET], one[schema.LENGTH]) for _, shard, one in wanted]
        )
        for (at, _, one), data in zip(wanted, read, strict=True):
            if isinstance(data, bytes):
                found[at].setdefault(one["suffix"], data)


def labels_beside(manifest: Manifest) -> bool:
    """Tell whether files beside samples hold labels: any `.cls`, or one of the first `.json`."""
    looked_into = list[tuple[str, int, int]]()
    for table in manifest.read_left_out():
        rows = table.filter(pc.starts_with(table[schema.REASON], "no "))
        names = pc.coalesce(rows[schema.MEMBER], rows[schema.URI])
        if pc.any(pc.match_substring_regex(names, r"(?i)[^/]\.cls$")).as_py():
            return True
        is_json = pc.match_substring_regex(names, r"(?i)[^/]\.json$")
        small = pc.less_equal(rows[schema.LENGTH], MAX_BYTES)
        some = rows.filter(pc.and_(is_json, small)).slice(0, LOOKED_INTO - len(looked_into))
        columns = (some[name].to_pylist() for name in (schema.URI, schema.OFFSET, schema.LENGTH))
        looked_into += zip(*columns, strict=True)
    return any(
        _label(data, "json") is not None
        for data in _fetched(looked_into)
        if isinstance(data, bytes)
    )


def _first_folders(rows: pa.Table, root: str) -> pa.Array:
    names = names_below(rows, root)
    return pa.array(
        [name.partition("/")[0] if "/" in name else None for name in names], pa.string()
    )


def _read_loose(
    places: list[_Place],
    loose: list[int],
    suffixes: list[str],
    found: list[dict[str, bytes]],
) -> None:
    """Read the texts beside loose files, side by side."""
    asked = [(at, suffix, _beside(places[at][0], suffix)) for at in loose for suffix in suffixes]
    asked = [one for one in asked if one[2] != places[one[0]][0]]  # a text is a sample
    read = side_by_side(_read_small, [name for _, _, name in asked])
    for (at, suffix, _), data in zip(asked, read, strict=True):
        if data is not None:
            found[at][suffix] = data


def _beside(address: str, suffix: str) -> str:
    """Name the file of a suffix beside a loose file: `0.txt` beside `0.jpg`."""
    folder, slash, name = address.rpartition("/")
    return f"{folder}{slash}{posixpath.splitext(name)[0]}.{suffix}"


def _read_small(uri: str) -> bytes | None:
    """Read a file; None where there is none, or a larger one than any text."""
    try:
        data = uris.read_range(uri, 0, MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    return data if len(data) <= MAX_BYTES else None


def _fetched(places: Sequence[tuple[str, int, int]]) -> list[Fetched]:
    """Fetch URI, offset and length as though they were samples."""
    if not places:
        return []
    addresses, offsets, lengths = zip(*places, strict=True)
    rows = {
        schema.URI: addresses,
        schema.OFFSET: offsets,
        schema.LENGTH: lengths,
        schema.MEMBER: ["text"] * len(places),
        "etag": [""] * len(places),
        schema.MEDIA: ["image"] * len(places),
    }
    return fetch(pa.table(rows))


def _text(found: dict[str, bytes], name: str) -> str | None:
    """Return what a column says, of what was read by suffix."""
    for suffix in TEXTS[name]:
        data = found.get(suffix)
        if data is None:
            continue
        text = _label(data, suffix) if name == "label" else data.decode(errors="replace").strip()
        if text:
            return text
    return None


def _label(data: bytes, suffix: str) -> str | None:
    """Return the label that a file holds as a class's name, several as cat|dog."""
    columns = Columns()
    labels = told(data, f".{suffix}", columns).get(schema.LABELS)
    return str(columns.mark).join(labels) if labels else None
