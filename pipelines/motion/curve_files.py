"""The changes of videos, kept beside a manifest version.

<manifest>/motion/<name>.parquet        what was found in some videos, named by which they are
<manifest>/motion/bad/                  videos that could not be looked at, a quarantine table
<manifest>/motion/index-000001.parquet  in which file and row each video of a version is

An index is written last. That of a later version holds what the ones before hold. Where motion was
looked for by optical flow as well, names end with how: index-000001-dis.parquet.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import schema
from pipelines.corpus.listed_rows import sample_id
from pipelines.media.contract import Changes
from pipelines.motion.optical_flow import FlowKind
from pipelines.storage import uris
from pipelines.storage.parquet_files import read_table, write_table

VIDEO = "video"  # int64, of one content at one place, whatever clips are listed of it
FILE = "file"
PLACE = "place"
_ANY_CLIP = -1  # in the place of a clip's number
_INDEX = re.compile(r"index-(\d{6})(?:-([a-z]+))?\.parquet")
_KEPT_FILES = 256

CHANGES = pa.schema(
    [
        pa.field(VIDEO, pa.int64(), nullable=False),
        pa.field(
            schema.REASON, pa.string()
        ),  # of what could not be looked at: then the rest is null
        pa.field("start_s", pa.float64()),
        pa.field("end_s", pa.float64()),
        pa.field("rate", pa.float64()),
        pa.field("times", pa.list_(pa.float64())),
        pa.field("changes", pa.list_(pa.float32())),
        pa.field("cuts", pa.list_(pa.float64())),  # of the frames that begin another scene
        pa.field("bars", pa.list_(pa.float32())),  # above, below, left, right
        pa.field("flow", pa.list_(pa.float32())),  # null where it was not looked for
    ]
)
INDEX = pa.schema(
    [
        pa.field(VIDEO, pa.int64(), nullable=False),  # ascending
        pa.field(FILE, pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field(PLACE, pa.int32(), nullable=False),
        pa.field(schema.REASON, pa.string()),
    ]
)


def video_ids(rows: pa.Table) -> np.ndarray:
    """Return the video of each manifest row, (B,) int64."""
    names = (schema.URI, schema.MEMBER, "etag")
    parts = zip(*(rows[name].to_pylist() for name in names), strict=True)
    ids = [sample_id(uri, member, etag, _ANY_CLIP) for uri, member, etag in parts]
    return np.array(ids, np.int64)


def row_of(video: int, changes: Changes) -> dict[str, object]:
    """Return a row of schema `CHANGES`."""
    return {
        VIDEO: video,
        "start_s": changes.start_s,
        "end_s": changes.end_s,
        "rate": changes.rate,
        "times": changes.times,
        "changes": changes.changes,
        "cuts": changes.times[changes.cuts],
        "bars": list(changes.bars),
        "flow": changes.flow,
    }


@dataclass(frozen=True)
class Curves:
    """What is known of how the videos of a manifest version change.

    Attributes:
        manifest: Its URI.
        version: The version.
        flow: How motion was looked for; None: it was not.
    """

    manifest: str
    version: int
    flow: FlowKind | None = None

    @classmethod
    def newest(cls, manifest: str, flow: FlowKind | None = None) -> "Curves | None":
        """Return those of the newest version that has any."""
        names = uris.list_names(folder_of(manifest))
        found = [int(name[1]) for name in map(_INDEX.fullmatch, names) if name and name[2] == flow]
        return cls(manifest, max(found), flow) if found else None

    @classmethod
    def of_any(cls, manifest: str, version: int) -> "Curves":
        """Return those of a version, whichever way motion was looked for in them."""
        several = [cls(manifest, version, flow) for flow in (None, *get_args(FlowKind))]
        return next((one for one in several if one.exist()), several[0])

    @property
    def uri(self) -> str:
        """Return where the index lies."""
        name = f"index-{self.version:06d}{suffix_of(self.flow)}.parquet"
        return uris.join(folder_of(self.manifest), name)

    def exist(self) -> bool:
        """Tell whether all videos of the version were looked at."""
        return uris.exists(self.uri)

    def index(self) -> pa.Table:
        """Read the index, schema `INDEX`."""
        return _index(self.uri)

    def write_index(self, found: pa.Table) -> None:
        """Write the index of what was found in all videos."""
        write_table(self.uri, found.unify_dictionaries().combine_chunks().sort_by(VIDEO))

    def of(self, rows: pa.Table) -> Iterator[Changes | None]:
        """Yield the changes of the video of each manifest row; None of one that could not be looked
        at.

        Raises:
            ValueError: a row's video is none of those that were looked at.
        """
        index = self.index()
        known = index[VIDEO].to_numpy()
        for row, video in enumerate(video_ids(rows).tolist()):
            at = int(np.searchsorted(known, video))
            if at == len(known) or known[at] != video:
                raise ValueError(f"{rows[schema.URI][row]} is not among the videos of {self.uri}")
            file, place = (index[name][at].as_py() for name in (FILE, PLACE))
            yield _changes(uris.join(folder_of(self.manifest), file), place)


def carry(manifest: str, version: int, later: int) -> None:
    """Let a later version have all that is known of one's videos, where it has no others."""
    for flow in (None, *get_args(FlowKind)):
        curves = Curves(manifest, version, flow)
        later_ones = Curves(manifest, later, flow)
        if curves.exist() and not later_ones.exist():
            later_ones.write_index(curves.index())


def suffix_of(flow: FlowKind | None) -> str:
    """Return what names end with where motion was looked for so."""
    return f"-{flow}" if flow else ""


def folder_of(manifest: str) -> str:
    """Return where the changes of a manifest's videos lie."""
    return uris.join(manifest, "motion")


@lru_cache(maxsize=2)
def _index(uri: str) -> pa.Table:
    return read_table(uri).combine_chunks()


@lru_cache(maxsize=_KEPT_FILES)
def _file(uri: str) -> pa.Table:
    return read_table(uri)


def _changes(uri: str, place: int) -> Changes | None:
    table = _file(uri)
    if table[schema.REASON][place].is_valid:
        return None
    start_s, end_s, rate = (table[name][place].as_py() for name in ("start_s", "end_s", "rate"))
    times, changes, cuts, bars = (
        table[name][place].values.to_numpy() for name in ("times", "changes", "cuts", "bars")
    )
    top, bottom, left, right = bars.tolist()
    flow = table["flow"][place].values if "flow" in table.column_names else None
    return Changes(
        start_s,
        end_s,
        rate,
        times,
        changes.astype(np.float64),
        np.isin(times, cuts),
        (top, bottom, left, right),
        None if flow is None else flow.to_numpy().astype(np.float64),
    )


def entries(table: pa.Table, file: str) -> pa.Table:
    """Return the rows of an index for a file's rows."""
    places = pa.array(np.arange(table.num_rows), pa.int32())
    names = pa.array([file] * table.num_rows, pa.string()).dictionary_encode()
    columns = [table[VIDEO], names, places, table[schema.REASON]]
    return pa.table(columns, names=INDEX.names).cast(INDEX)


def reasons(index: pa.Table) -> dict[str, int]:
    """Count the videos that could not be looked at, by reason."""
    counts = pc.value_counts(index[schema.REASON].drop_null()).to_pylist()
    return {pair["values"]: pair["counts"] for pair in counts}
