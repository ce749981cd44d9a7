"""Labelled images: a folder per class. The first folder below the source is the class, as
torchvision has it.

A tar shard counts as unpacked where it lies, so that its members' first folder is the class of a
shard beside others. Links to folders are followed. Names are compared in Unicode's form NFC: the
same name may come composed from one system and decomposed from another.
"""

import posixpath
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import schema
from pipelines.corpus.entry import Selection, is_hidden
from pipelines.corpus.listed_rows import LEFT_OUT, LISTED
from pipelines.corpus.listing import MAGIC, list_source
from pipelines.storage import uris

BESIDE = "beside the class folders"
_BY_PLACE = [(schema.URI, "ascending"), (schema.OFFSET, "ascending")]
# Folders that hold classes, or other things, but are none.
_SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
_CONTENTS = {"image", "images", "img", "imgs", "jpegimages", "mask", "masks", "annotations"}
_PARTS_OF_DATA_SETS = _SPLITS | _CONTENTS | {"label", "labels"}


@dataclass(frozen=True)
class LabelledRows:
    """The samples of a labelled source.

    Attributes:
        rows: Manifest rows by place, schema `schema.MANIFEST`.
        classes: The class of each row.
        left_out: Files that are none of them, by reason.
        empty: Class folders without a sample, sorted.
    """

    rows: pa.Table
    classes: list[str]
    left_out: Counter[str]
    empty: list[str]


def read_class_folders(uri: str) -> LabelledRows:
    """List a source whose first folders are classes.

    Args:
        uri: A folder or prefix, a glob, or `.tar` shards.

    Raises:
        ValueError: the source is missing or refused, with the remedy; from a task, a `RayTaskError`
            with it as cause.
    """
    uri = uris.absolute(uri)
    root = _root(uri)
    tables = [LISTED.empty_table(), *list_source(uri, Selection(follow_links=True))]
    listed = pa.concat_tables(tables).sort_by(_BY_PLACE)
    classes = [
        _class_of(place, member, root)
        for place, member in zip(
            listed[schema.URI].to_pylist(), listed["member"].to_pylist(), strict=True
        )
    ]
    reasons = [
        reason or (None if name else BESIDE)
        for reason, name in zip(listed[LEFT_OUT.name].to_pylist(), classes, strict=True)
    ]
    taken = pa.array([reason is None for reason in reasons], pa.bool_())
    known = [name for name, reason in zip(classes, reasons, strict=True) if name and not reason]
    folders = {name for name in classes if name} | _folders(uri)
    return LabelledRows(
        rows=listed.filter(taken).select(schema.MANIFEST.names),
        classes=known,
        left_out=Counter(reason for reason in reasons if reason),
        empty=sorted(folders - set(known)),
    )


def parts_of_data_sets(classes: list[str]) -> list[str]:
    """Return those of some class names that data sets give to their parts, as `train` or
    `images`."""
    return [name for name in classes if name.casefold() in _PARTS_OF_DATA_SETS]


def without(labelled: LabelledRows, gone: set[int], reason: str) -> LabelledRows:
    """Leave out the samples with some ids, for a reason."""
    ids = pa.array(sorted(gone), pa.int64())
    stays = pc.invert(pc.is_in(labelled.rows[schema.SAMPLE_ID], value_set=ids))
    kept = stays.to_pylist()
    classes = [name for name, stay in zip(labelled.classes, kept, strict=True) if stay]
    left_out = labelled.left_out + Counter({reason: len(kept) - len(classes)})
    return LabelledRows(labelled.rows.filter(stays), classes, left_out, labelled.empty)


def _root(uri: str) -> str:
    """Take the square root; its slope at zero is zero, not infinite."""
    if uris.exists(uri):
        fs, path = uris.filesystem(uri)
        folder = uri if fs.isdir(path) else uri.rpartition("/")[0]
    else:
        before = re.split(f"[{re.escape(MAGIC)}{{]", uri, maxsplit=1)[0]
        folder = before.rpartition("/")[0]
    return f"{folder.rstrip('/')}/"


def _class_of(uri: str, member: str | None, root: str) -> str | None:
    """Return the first folder on the way from the root to a file; None for a file at the root."""
    path = uri.removeprefix(root)
    if member is not None:
        path = posixpath.join(posixpath.dirname(path), member.lstrip("/"))
    first, slash, _ = posixpath.normpath(path).partition("/")
    return unicodedata.normalize("NFC", first) if slash else None


def _folders(uri: str) -> set[str]:
    """Return the names of a source's own folders, which may hold no file at all."""
    names = uris.list_folders(uri)
    return {unicodedata.normalize("NFC", name) for name in names if not is_hidden(name)}
