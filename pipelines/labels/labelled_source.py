"""One labelled source of any kind: a folder per class, shards with labels beside the images, a
manifest, a table, or a COCO file."""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines import schema
from pipelines.corpus.file_kinds import Medium, no_sample, suffix_of
from pipelines.corpus.listed_rows import LEFT_OUT
from pipelines.corpus.manifest import open_manifest, versions
from pipelines.labels import coco, label_tables, sidecars
from pipelines.labels.class_folders import (
    by_first_folder,
    folders_of,
    left_out_of,
    list_files,
    read_unlabelled,
    root_of_names,
)
from pipelines.labels.label_tables import Columns, LabelTable
from pipelines.labels.labelled_data import Task
from pipelines.labels.labelled_rows import LabelledRows, LeftOutNames, below, named_rows
from pipelines.labels.looked_up import look_up_files
from pipelines.storage import uris
from pipelines.texts.labelled_texts import read_labelled_texts


def is_table(uri: str) -> bool:
    """Tell whether a source is a table of labels, by its name."""
    return suffix_of(uri) in label_tables.SUFFIXES


def is_coco(uri: str) -> bool:
    """Tell whether a source is a COCO file, by its name."""
    return suffix_of(uri) == ".json"


def read_source(
    uri: str, columns: Columns, task: Task, medium: Medium = "pictures"
) -> LabelledRows:
    """Read the samples of a source and what it says of them.

    Args:
        uri: A folder or prefix with a folder per class, or of images whose masks or boxes lie
            elsewhere; `.tar` shards; a manifest; or a table.
        columns: Which columns of a table, or keys of JSON files in shards, hold what.
        task: What is judged; of masks and boxes no class folder is asked for.
        medium: What samples are.

    Raises:
        ValueError: the source is missing, refused or not what it seems, with the remedy; from a
            task, a `RayTaskError` with it as cause.
    """
    uri = uris.absolute(uri)
    wants_labels = task in ("class", "classes")
    if is_table(uri):
        if problem := uris.reachable(uri):
            raise ValueError(f"source.uri {problem}")
        if columns.text is not None:
            return read_labelled_texts(uri, columns, wants_labels=wants_labels)
        table = label_tables.read_label_table(uri, columns, wants_labels=wants_labels)
        return by_table(uri, table, medium)
    if is_coco(uri):
        return by_coco(uri)
    if versions(uri):
        return sidecars.read_manifest(open_manifest(uri), columns)
    if not wants_labels:
        return read_unlabelled(uri)
    listed = list_files(uri, medium)
    root = root_of_names(uri)
    found = sidecars.read_shards(listed, root, columns)
    if found is not None:
        return found
    return by_first_folder(listed, root, folders_of(uri))


def by_coco(uri: str) -> LabelledRows:
    """Find the images of a COCO file among those below its folder."""
    said = coco.read_coco(uri)
    found = said.give({"train": read_unlabelled(uri.rpartition("/")[0])})["train"]
    # Its folder may hold other COCO files, and their images.
    others = (coco.NO_ENTRY, no_sample(uri))
    counts = {reason: n for reason, n in found.left_out.counts.items() if reason not in others}
    left_out = LeftOutNames(Counter(counts), found.left_out.names) + said.unused()
    return LabelledRows(found.rows, left_out)


def by_table(uri: str, table: LabelTable, medium: Medium = "pictures") -> LabelledRows:
    """Look up the files that a table names, and their masks."""
    folder = f"{uri.rpartition('/')[0]}/"
    records = table.records
    listed = look_up_files([label_tables.place_of(one.uri, uri) for one in records], medium)
    reasons = listed[LEFT_OUT.name].to_pylist()
    names = [below(folder, uri, None) for uri in listed[schema.URI].to_pylist()]
    left_out = table.left_out + left_out_of(names, reasons)
    kept = [index for index, reason in enumerate(reasons) if reason is None]
    columns: dict[str, Any] = {
        schema.NAME: [names[index] for index in kept],
        schema.LABELS: [list(records[index].labels) for index in kept],
        schema.SPLIT: [records[index].split for index in kept],
        schema.GROUP: [records[index].group for index in kept],
    }
    masks = [records[index].mask for index in kept]
    if any(masks):
        columns |= _masks_of([mask and label_tables.place_of(mask, uri) for mask in masks])
    rows = named_rows(listed.take(pa.array(kept, pa.int64())), columns)
    found = LabelledRows(rows, left_out)
    again = np.ones(rows.num_rows, bool)
    again[np.unique(np.asarray(rows[schema.SAMPLE_ID]), return_index=True)[1]] = False
    return found.without(again, label_tables.AGAIN)


def _masks_of(places: list[str | None]) -> dict[str, list[Any]]:
    """Look up masks that a table names; one that is missing is none."""
    asked = [index for index, place in enumerate(places) if place]
    found = look_up_files([str(places[index]) for index in asked])
    columns: dict[str, list[Any]] = {
        name: [None] * len(places)
        for name in (schema.MASK_URI, schema.MASK_OFFSET, schema.MASK_LENGTH)
    }
    for index, row in zip(asked, found.to_pylist(), strict=True):
        if row[LEFT_OUT.name] is None:
            columns[schema.MASK_URI][index] = row[schema.URI]
            columns[schema.MASK_OFFSET][index] = row[schema.OFFSET]
            columns[schema.MASK_LENGTH][index] = row[schema.LENGTH]
    return columns
