"""Videos as folders of frames, with masks or key points beside some of them."""

import csv
import io
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence as Many
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from pipelines import schema
from pipelines.corpus.file_kinds import IMAGE
from pipelines.corpus.listed_rows import LEFT_OUT
from pipelines.labels.class_folders import list_files, names_below, root_of_names
from pipelines.labels.labelled_rows import LeftOutNames
from pipelines.labels.paired_paths import SEVERAL, pair_paths, stem
from pipelines.storage import uris

NO_FRAME = "mask without a frame"
AMBIGUOUS = "frame whose path does not tell which mask is its own"
NOT_AN_IMAGE = "not an image"
NO_TRUTH = "sequence of which no frame has a mask or key points"
COLUMNS = ("sequence", "frame", "point", "x", "y")
Point = tuple[str, float, float]


@dataclass(frozen=True)
class Place:
    """Where the bytes of a file lie."""

    uri: str
    offset: int
    length: int


@dataclass(frozen=True)
class Frame:
    """One frame of a sequence.

    Attributes:
        image: Its file.
        mask: Its mask; None where there is none.
        points: Its key points, their names and x and y in px; none where nobody has marked any.
    """

    image: Place
    mask: Place | None = None
    points: tuple[Point, ...] = ()

    @property
    def has_truth(self) -> bool:
        """Tell whether anything is known of it."""
        return self.mask is not None or bool(self.points)


@dataclass(frozen=True)
class Sequence:
    """The frames of one video, in their order."""

    name: str
    frames: tuple[Frame, ...]


@dataclass(frozen=True)
class Listed:
    """What a folder of sequences holds.

    Attributes:
        sequences: Those that something is known of, by name.
        left_out: Files and sequences that are no part of them.
    """

    sequences: list[Sequence]
    left_out: LeftOutNames = field(default_factory=LeftOutNames)


def read_sequences(frames: str, *, masks: str | None = None, points: str | None = None) -> Listed:
    """List sequences: each folder of images is one, its frames in the order of their names.

    A mask belongs to the frame of the same path, suffixes left aside. Numbers in names count as
    numbers: `frame2` comes before `frame10`.

    Args:
        frames: A folder of folders of images, a glob, or tar shards.
        masks: The same with masks.
        points: A CSV file of `COLUMNS`, a row a key point that is seen in a frame.

    Raises:
        ValueError: a place is missing or refused, or the table cannot be read.
    """
    left_out = LeftOutNames()
    names, places = _images(frames, left_out)
    mask_of = dict[int, Place]()
    if masks is not None:
        mask_of = _masks(names, masks, left_out)
    stems = [stem(name) for name in names]
    points_of = _points(points, stems, frames) if points is not None else {}
    folders = defaultdict[str, list[int]](list)
    for index, name in enumerate(names):
        folders[name.rpartition("/")[0]].append(index)
    sequences = list[Sequence]()
    for folder, members in sorted(folders.items(), key=lambda one: _natural(one[0])):
        ordered = sorted(members, key=lambda index: _natural(names[index]))
        found = [
            Frame(places[index], mask_of.get(index), points_of.get(index, ())) for index in ordered
        ]
        name = folder or frames.rstrip("/").rpartition("/")[2]
        if any(frame.has_truth for frame in found):
            sequences.append(Sequence(name, tuple(found)))
        else:
            left_out.add(NO_TRUTH, name)
    return Listed(sequences, left_out)


def _images(uri: str, left_out: LeftOutNames) -> tuple[list[str], list[Place]]:
    """List the images below a place, and count everything else."""
    uri = uris.absolute(uri)
    listed = list_files(uri)
    names = names_below(listed, root_of_names(uri))
    reasons = listed[LEFT_OUT.name].to_pylist()
    media = listed[schema.MEDIA].to_pylist()
    why = [
        reason or (None if kind == IMAGE else NOT_AN_IMAGE)
        for reason, kind in zip(reasons, media, strict=True)
    ]
    for name, reason in zip(names, why, strict=True):
        if reason:
            left_out.add(reason, name)
    taken = pa.array([reason is None for reason in why], pa.bool_())
    columns = [schema.URI, schema.OFFSET, schema.LENGTH]
    rows = listed.filter(taken).select(columns).to_pylist()
    places = [Place(*row.values()) for row in rows]
    kept = [name for name, reason in zip(names, why, strict=True) if reason is None]
    return kept, places


def _masks(names: Many[str], uri: str, left_out: LeftOutNames) -> dict[int, Place]:
    """Find the mask of each frame, by its index."""
    mask_names, places = _images(uri, left_out)
    stems = [stem(name) for name in names]
    found = pair_paths(stems, range(len(names)), [stem(name) for name in mask_names])
    left_out.add_all(
        AMBIGUOUS, [names[index] for index in np.flatnonzero(found == SEVERAL).tolist()]
    )
    used = set(found.tolist())
    unused = [name for index, name in enumerate(mask_names) if index not in used]
    left_out.add_all(NO_FRAME, unused)
    return {index: places[mask] for index, mask in enumerate(found.tolist()) if mask >= 0}


def _points(uri: str, stems: Many[str], frames: str) -> dict[int, tuple[Point, ...]]:
    """Read a table of key points, by the index of the frame.

    Raises:
        ValueError: a column is missing, a value is no number, or a frame is not there.
    """
    text = uris.read_bytes(uri).decode("utf-8-sig")
    table = csv.DictReader(io.StringIO(text))
    if missing := [name for name in COLUMNS if name not in (table.fieldnames or ())]:
        raise ValueError(
            f"{uri} lacks the column {missing[0]}: it must have {', '.join(COLUMNS)}, a row for"
            " each key point that is seen in a frame"
        )
    own = frames.rstrip("/").rpartition("/")[2]
    index_of = {one if "/" in one else f"{own}/{one}": i for i, one in enumerate(stems)}
    found = defaultdict[int, list[Point]](list)
    for number, row in enumerate(table, start=2):
        name = unicodedata.normalize("NFC", f"{row['sequence']}/{row['frame']}")
        index = index_of.get(name, index_of.get(stem(name)))
        if index is None:
            raise ValueError(f"{uri} line {number}: test.uri has no frame {name}")
        try:
            point = (str(row["point"]), float(row["x"]), float(row["y"]))
        except (TypeError, ValueError):
            raise ValueError(
                f"{uri} line {number}: x and y must be px, got {row['x']!r} and {row['y']!r};"
                " leave out the row of a point that is not seen"
            ) from None
        if not np.isfinite(point[1:]).all() or point[0] in {one for one, *_ in found[index]}:
            what = "is there twice" if np.isfinite(point[1:]).all() else "is nowhere"
            raise ValueError(f"{uri} line {number}: point {point[0]} {what} in frame {name}")
        found[index].append(point)
    return {index: tuple(of_frame) for index, of_frame in found.items()}


def _natural(name: str) -> list[tuple[int, str]]:
    """Return what to sort by, so that numbers count as numbers."""
    parts = re.findall(r"\d+|\D+", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
