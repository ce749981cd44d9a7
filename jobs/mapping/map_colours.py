"""What an atlas is coloured by: its clusters, folders, what the manifest knows, and columns of the
export."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from jobs.mapping.laid_out import LaidOut
from jobs.setup.failures import InputError
from pipelines import schema
from pipelines.atlas.chosen import Chosen
from pipelines.atlas.colours import MOST_CLASSES, Colour, ColumnCodes, of_codes, of_numbers
from pipelines.atlas.listed_facts import facts_of
from pipelines.atlas.point_rows import told_columns
from pipelines.corpus.entry import folders_of
from pipelines.corpus.manifest import Manifest
from pipelines.embeddings.stored import Stored
from pipelines.embeddings.stored_rows import scan

CLUSTER = "cluster"
FOLDER = "folder"
VERSION = "version"
MODIFIED = "modified"
_NOT_COLOURS = (schema.SAMPLE_ID, schema.URI, schema.MEMBER, schema.END_S)


def check(wanted: Sequence[str], stored: Stored) -> None:
    """Refuse columns that are not there.

    Raises:
        InputError: one is not.
    """
    own = (CLUSTER, FOLDER, VERSION, MODIFIED)
    if missing := [name for name in wanted if name not in (*stored.names, *own)]:
        there = [name for name in stored.names if name not in stored.provenance.columns]
        raise InputError(
            f"colour {missing[0]} is no column of {stored.uri}: give some of"
            f" {', '.join([*own, *there])}, or carry={missing[0]} when exporting"
        )


def gather(
    wanted: Sequence[str], chosen: Chosen, laid: LaidOut, manifest: Manifest | None
) -> list[Colour]:
    """Gather the colours, in the map's order.

    Args:
        wanted: Columns of the export; none: all that can be shown in colours.
        chosen: The samples.
        laid: Where they lie.
        manifest: Their listing.

    Raises:
        InputError: a column that was asked for cannot be shown in colours.
    """
    names = [f"cluster {number + 1}" for number in range(int(laid.cluster.max()) + 1)]
    found = [of_codes(CLUSTER, laid.cluster, names)]
    others = [*_columns(wanted, chosen), *_listed(chosen, manifest)]
    return found + [one.taken(laid.order) for one in others]


def _columns(wanted: Sequence[str], chosen: Chosen) -> list[Colour]:
    """Read columns of the export once, in its order."""
    names = [name for name in told_columns(chosen) if name not in _NOT_COLOURS]
    asked = [name for name in wanted if name not in (CLUSTER, FOLDER, VERSION, MODIFIED)]
    names = [name for name in names if not wanted or name in asked]
    columns = dict[str, ColumnCodes]()
    folders = ColumnCodes(FOLDER, pa.string())
    for start, table in scan(chosen.stored, [schema.URI, schema.MEMBER, *names]):
        low, high = np.searchsorted(chosen.rows, (start, start + table.num_rows))
        some = table.take(pa.array(chosen.rows[low:high] - start))
        folders.add(folders_of(some))
        for name in names:
            kind = some[name].type
            if ColumnCodes.takes(kind):
                columns.setdefault(name, ColumnCodes(name, kind)).add(some[name])
    if refused := [name for name in asked if name not in columns or columns[name].is_unfit]:
        raise InputError(
            f"colour {refused[0]} cannot be shown in colours: it holds neither numbers, times nor"
            f" up to {MOST_CLASSES:,} classes; leave it out"
        )
    made = [one.colour() for one in (folders, *columns.values()) if not one.is_unfit]
    return [one for one in made if one.name in asked or _says_something(one)]


def _listed(chosen: Chosen, manifest: Manifest | None) -> list[Colour]:
    """Colour by what the manifest knows."""
    if manifest is None:
        return []
    version, modified = facts_of(manifest, chosen.ids)
    names = [f"version {number + 1}" for number in range(int(version.max()))]
    codes = np.where(version > 0, version - 1, -1)
    made = [of_codes(VERSION, codes, names, by_count=False), of_numbers(MODIFIED, modified, "time")]
    return [one for one in made if _says_something(one)]


def _says_something(colour: Colour) -> bool:
    """Tell whether not all samples have the same colour."""
    if colour.kind == "class":
        return len(colour.classes) + bool(colour.missing) > 1
    return colour.high > colour.low


def table_columns(colours: Sequence[Colour], laid: LaidOut) -> dict[str, pa.Array]:
    """Return what the table has beside the columns of the export, in the map's order."""
    found = {CLUSTER: pa.array(laid.cluster + 1)}
    for one in colours:
        if one.name in (FOLDER, VERSION) and one.kind == "class":
            names = pa.array([None, *(name for name, _ in one.classes)], pa.string())
            found[one.name] = names.take(pa.array(one.codes))
    return found


def spread(num_points: int, most: int) -> np.ndarray:
    """Return which points have a thumbnail, ascending: all, or some that are spread over the map.

    Points follow each other as they lie on the map, so that evenly spaced numbers are spread there.
    """
    if num_points <= most:
        return np.arange(num_points)
    return np.unique(np.linspace(0, num_points - 1, most).astype(np.int64))[:most]


def numbered(num_points: int, points: np.ndarray) -> np.ndarray:
    """Return the number of each point among some, (n,) int32; -1 for all others."""
    number = np.full(num_points, -1, np.int32)
    number[points] = np.arange(len(points))
    return number
