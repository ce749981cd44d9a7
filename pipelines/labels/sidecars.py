"""Labels that lie beside each image in a tar shard, as WebDataset has it: `0.jpg` and `0.cls`, or a
JSON object in `0.json`.

A listing counts such files as no images, and a manifest keeps them in its table of what was left
out: that is where they are found, in shards and manifests alike.
"""

import json
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from pipelines import schema
from pipelines.corpus.entry import LINK_TO_FOLDER
from pipelines.corpus.file_kinds import suffix_of
from pipelines.corpus.listed_rows import LEFT_OUT
from pipelines.corpus.manifest import Manifest
from pipelines.labels.class_folders import (
    by_first_folder,
    left_out_of,
    names_below,
    root_of_names,
)
from pipelines.labels.label_tables import (
    NO_LABEL,
    ODD_LABEL,
    ODD_SPLIT,
    Columns,
    labels_of,
    split_of,
)
from pipelines.labels.labelled_rows import LabelledRows, LeftOutNames, below, named_rows, nfc
from pipelines.media.contract import BadSample
from pipelines.ray_tasks import map_in_tasks, said_to
from pipelines.stream.fetch import fetch

NO_SIDECAR = "no label beside it in its shard"
TASK_FILES = 4096
MAX_BYTES = 1 << 20  # of a sidecar; more is no label
_JSON_LABELS = ("label", "labels", "cls", "class")
_FOUND = pa.schema(
    [
        pa.field("shard", pa.string()),
        pa.field("key", pa.string()),
        pa.field("suffix", pa.string()),
        pa.field(schema.LABELS, pa.list_(pa.string())),
        pa.field(schema.SPLIT, pa.string()),
        pa.field(schema.GROUP, pa.string()),
        pa.field("problem", pa.string()),
    ]
)


def key_of(member: str) -> str:
    """Return what WebDataset groups the files of a shard by: the name up to the first dot of its
    last part."""
    folder, slash, name = member.removeprefix("./").rpartition("/")
    return f"{folder}{slash}{name.partition('.')[0]}"


def sidecars_in(table: pa.Table) -> pa.Table:
    """Return the rows of files that may hold labels, of those that are no samples.

    Args:
        table: Schema `LISTED` or `schema.QUARANTINE`.
    """
    member = pc.fill_null(table[schema.MEMBER], "")
    wanted = pc.match_substring_regex(member, r"(?i)[^/](\.cls|\.json)$")
    rows = table.filter(wanted)
    return rows.select([schema.URI, schema.OFFSET, schema.LENGTH, schema.MEMBER])


def read_manifest(manifest: Manifest, columns: Columns) -> LabelledRows:
    """Read the samples of a manifest with the labels beside them, or by their first folder where
    there are none.

    A corpus follows no links to folders, where labels of a folder do: those that its listing found
    are left out by name, as they may have been classes.
    """
    tables = [manifest.read_row_group(part, group) for part, group, n in manifest.row_groups() if n]
    rows = pa.concat_tables(tables).select(schema.MANIFEST.names)
    rows = rows.filter(pc.fill_null(pc.equal(rows[schema.CLIP], 0), True))
    left = list(manifest.read_left_out())
    beside = [sidecars_in(table) for table in left]
    root = root_of_names(manifest.source)
    found = _read(pa.concat_tables(beside), columns) if beside else _FOUND.empty_table()
    if has_labels(found):
        return by_sidecars(rows, found, root)
    listed = rows.append_column(LEFT_OUT, pa.nulls(rows.num_rows, pa.string()))
    samples = by_first_folder(listed, root, set())
    links = LeftOutNames()
    for table in left:
        linked = table.filter(pc.equal(table[schema.REASON], LINK_TO_FOLDER))
        places = linked[schema.URI].to_pylist()
        links.add_all(LINK_TO_FOLDER, [below(root, place, None) for place in places])
    return replace(samples, left_out=samples.left_out + links)


def read_shards(listed: pa.Table, root: str, columns: Columns) -> LabelledRows | None:
    """Read the samples of listed shards with the labels beside them; None where there are none."""
    beside = sidecars_in(listed)
    if not beside.num_rows:
        return None
    found = _read(beside, columns)
    if not has_labels(found):
        return None
    reasons = listed[LEFT_OUT.name].to_pylist()
    names = names_below(listed, root)
    read = {
        (shard, key + suffix)
        for shard, key, suffix in zip(
            *(found[name].to_pylist() for name in ("shard", "key", "suffix")), strict=True
        )
    }
    places = zip(
        listed[schema.URI].to_pylist(), listed[schema.MEMBER].to_pylist(), reasons, strict=True
    )
    # What was read as a label was not left out.
    kept = [
        None if member and (uri, key_of(member) + suffix_of(member)) in read else reason
        for uri, member, reason in places
    ]
    samples = by_sidecars(listed.filter(pc.is_null(listed[LEFT_OUT.name])), found, root)
    left_out = left_out_of(names, kept) + samples.left_out
    return LabelledRows(samples.rows, left_out)


def has_labels(found: pa.Table) -> bool:
    """Tell whether any file beside a sample holds a label."""
    return bool(pc.any(pc.greater(pc.list_value_length(found[schema.LABELS]), 0)).as_py())


def by_sidecars(rows: pa.Table, found: pa.Table, root: str) -> LabelledRows:
    """Give each sample the label beside it.

    Args:
        rows: Manifest rows.
        found: What was read of the files beside them; `.cls` counts before `.json`.
        root: Folder below which names begin.
    """
    told: dict[tuple[str, str], dict[str, Any]] = {}
    for one in sorted(found.to_pylist(), key=lambda one: str(one["suffix"]), reverse=True):
        place = (one["shard"], one["key"])
        if one[schema.LABELS] or one["problem"] or place not in told:
            told[place] = {**told.get(place, {}), **{k: v for k, v in one.items() if v}}
    names = names_below(rows, root)
    keys = zip(rows[schema.URI].to_pylist(), rows[schema.MEMBER].to_pylist(), strict=True)
    of_row = [told.get((uri, key_of(member))) if member else None for uri, member in keys]
    reasons = [_why_not(one) for one in of_row]
    taken = [one for one, reason in zip(of_row, reasons, strict=True) if one and not reason]
    columns: dict[str, Any] = {
        name: [one.get(name) for one in taken]
        for name in (schema.LABELS, schema.SPLIT, schema.GROUP)
    }
    kept = [reason is None for reason in reasons]
    columns[schema.NAME] = [name for name, keep in zip(names, kept, strict=True) if keep]
    return LabelledRows(
        named_rows(rows.filter(pa.array(kept, pa.bool_())), columns), left_out_of(names, reasons)
    )


def _why_not(told: dict[str, Any] | None) -> str | None:
    if told is None:
        return NO_SIDECAR
    if told.get(schema.LABELS):
        return None
    return str(told.get("problem", NO_LABEL))


def _read(beside: pa.Table, columns: Columns) -> pa.Table:
    """Read sidecars by Ray tasks, those of one shard together; schema `_FOUND`."""
    beside = beside.sort_by([(schema.URI, "ascending"), (schema.OFFSET, "ascending")])
    parts = [beside.slice(at, TASK_FILES) for at in range(0, beside.num_rows, TASK_FILES)]
    if not parts:
        return _FOUND.empty_table()
    dataset = ray.data.from_blocks(parts)
    dataset.context.execution_no_progress_timeout_s = -1
    read = map_in_tasks(
        dataset, partial(_read_part, columns=columns), batch_size=None, batch_format="pyarrow"
    )
    said_to(read, "reading labels beside samples", beside.num_rows)
    return pa.concat_tables(
        [_FOUND.empty_table(), *read.iter_batches(batch_size=None, batch_format="pyarrow")]
    )


def _read_part(beside: pa.Table, columns: Columns) -> pa.Table:
    beside = beside.append_column("etag", pa.array([""] * beside.num_rows, pa.string()))
    small = np.asarray(beside[schema.LENGTH]) <= MAX_BYTES
    payloads = iter(fetch(beside.filter(pa.array(small))) if small.any() else ())
    rows = []
    for place, is_small in zip(beside.to_pylist(), small, strict=True):
        member = place[schema.MEMBER]
        what = {"shard": place[schema.URI], "key": key_of(member), "suffix": suffix_of(member)}
        data = next(payloads) if is_small else BadSample("too_large", "no label")
        rows.append(what | told(data, what["suffix"], columns))
    return pa.Table.from_pylist(rows, schema=_FOUND)


def told(data: bytes | BadSample, suffix: str, columns: Columns) -> dict[str, Any]:
    """Read what one file says: labels, split and group, or the `problem` that it has."""
    if isinstance(data, BadSample):
        return {"problem": f"label {data.reason}"}
    try:
        text = data.decode("utf-8-sig")
        said = {"label": text} if suffix == ".cls" else json.loads(text)
    except ValueError:
        return {"problem": f"label that cannot be read ({suffix})"}
    if not isinstance(said, dict):
        return {"problem": ODD_LABEL}
    names = (columns.label,) if columns.label and suffix == ".json" else _JSON_LABELS
    value = next((said[name] for name in names if name in said), None)
    labels = labels_of(value, columns.mark)
    split = split_of(said.get(columns.split or "split"))
    group = labels_of(said.get(columns.group or "group"), None)
    if labels is None or split is None:
        return {"problem": ODD_LABEL if labels is None else ODD_SPLIT}
    return {
        schema.LABELS: list(labels),
        schema.SPLIT: split or None,
        schema.GROUP: nfc(group[0]) if group else None,
    }
