"""Labelled samples in a folder per class. The first folder below the source is the class, as
torchvision has it.

A tar shard counts as unpacked where it lies, so that its members' first folder is the class of a
shard beside others. Links to folders are followed. Names are compared in Unicode's form NFC: the
same name may come composed from one system and decomposed from another.
"""

import re

import pyarrow as pa

from pipelines import schema
from pipelines.corpus.entry import MAGIC, Selection, is_hidden
from pipelines.corpus.file_kinds import Medium
from pipelines.corpus.listed_rows import LEFT_OUT, LISTED
from pipelines.corpus.listing import list_source
from pipelines.labels.labelled_rows import LabelledRows, LeftOutNames, below, named_rows, nfc
from pipelines.storage import uris

BESIDE = "beside the class folders"
BY_PLACE = [(schema.URI, "ascending"), (schema.OFFSET, "ascending")]
# Folders that hold classes, or other things, but are none.
_SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
_CONTENTS = {"image", "images", "img", "imgs", "jpegimages", "mask", "masks", "annotations"}
_PARTS_OF_DATA_SETS = _SPLITS | _CONTENTS | {"label", "labels"}


def list_files(uri: str, medium: Medium = "pictures") -> pa.Table:
    """List the samples of a medium, links to folders followed; schema `LISTED`, by place.

    Raises:
        ValueError: the source is missing or refused, with the remedy; from a task, a `RayTaskError`
            with it as cause.
    """
    tables = [LISTED.empty_table(), *list_source(uri, Selection(follow_links=True, medium=medium))]
    return pa.concat_tables(tables).sort_by(BY_PLACE)


def read_class_folders(uri: str) -> LabelledRows:
    """List a source whose first folders are classes.

    Args:
        uri: A folder or prefix, a glob, or `.tar` shards.

    Raises:
        ValueError: the source is missing or refused, with the remedy; from a task, a `RayTaskError`
            with it as cause.
    """
    uri = uris.absolute(uri)
    return by_first_folder(list_files(uri), root_of_names(uri), folders_of(uri))


def by_first_folder(listed: pa.Table, root: str, folders: set[str]) -> LabelledRows:
    """Take the first folder of each file below a root for its class.

    Args:
        listed: Schema `LISTED`.
        root: The folder, with its slash.
        folders: Classes that may have no file at all.
    """
    names = names_below(listed, root)
    classes = [name.partition("/")[0] if "/" in name else None for name in names]
    reasons = [
        reason or (None if name else BESIDE)
        for reason, name in zip(listed[LEFT_OUT.name].to_pylist(), classes, strict=True)
    ]
    left_out = left_out_of(names, reasons)
    taken = pa.array([reason is None for reason in reasons], pa.bool_())
    known = [name for name, reason in zip(classes, reasons, strict=True) if name and not reason]
    columns = {
        schema.LABELS: [[name] for name in known],
        schema.NAME: pa.array(names, pa.string()).filter(taken),
    }
    every = {name for name in classes if name} | folders
    return LabelledRows(
        named_rows(listed.filter(taken), columns), left_out, sorted(every - set(known))
    )


def read_unlabelled(uri: str) -> LabelledRows:
    """List a source whose labels lie elsewhere, in masks or boxes: every image below it."""
    uri = uris.absolute(uri)
    listed = list_files(uri)
    names = names_below(listed, root_of_names(uri))
    reasons = listed[LEFT_OUT.name].to_pylist()
    taken = [reason is None for reason in reasons]
    columns = {schema.NAME: [name for name, one in zip(names, taken, strict=True) if one]}
    rows = named_rows(listed.filter(pa.array(taken, pa.bool_())), columns)
    return LabelledRows(rows, left_out_of(names, reasons))


def left_out_of(names: list[str], reasons: list[str | None]) -> LeftOutNames:
    """Count those files that have a reason."""
    left_out = LeftOutNames()
    for name, reason in zip(names, reasons, strict=True):
        if reason:
            left_out.add(reason, name)
    return left_out


def names_below(listed: pa.Table, root: str) -> list[str]:
    """Return the path of each file below a root."""
    places = listed[schema.URI].to_pylist()
    members = listed[schema.MEMBER].to_pylist()
    return [below(root, uri, member) for uri, member in zip(places, members, strict=True)]


def parts_of_data_sets(classes: list[str]) -> list[str]:
    """Return those of some class names that data sets give to their parts, as `train` or
    `images`."""
    return [name for name in classes if name.casefold() in _PARTS_OF_DATA_SETS]


def root_of_names(uri: str) -> str:
    """Return the folder below which a source's names begin, with its slash."""
    if uris.exists(uri):
        fs, path = uris.filesystem(uri)
        folder = uri if fs.isdir(path) else uri.rpartition("/")[0]
    else:
        before = re.split(f"[{re.escape(MAGIC)}{{]", uri, maxsplit=1)[0]
        folder = before.rpartition("/")[0]
    return f"{folder.rstrip('/')}/"


def folders_of(uri: str) -> set[str]:
    """Return the names of a source's own folders, which may hold no file at all."""
    return {nfc(name) for name in uris.list_folders(uri) if not is_hidden(name)}
