"""Manifest rows of files that a table names: looked up where they lie, by Ray tasks."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain

import pyarrow as pa
import ray.data

from pipelines.corpus.entry import Entry, Selection
from pipelines.corpus.file_kinds import Medium
from pipelines.corpus.listed_rows import (
    LISTED,
    LOCAL_THREADS,
    REFUSED,
    REMOTE_THREADS,
    per_clip,
    rows_of,
)
from pipelines.corpus.listing import look_up
from pipelines.labels.labelled_rows import forms_of
from pipelines.ray_tasks import map_in_tasks, said_to
from pipelines.storage import uris
from pipelines.storage.retries import Refused

FILES_PER_TASK = 2048
MISSING = "missing"
NO_FILE = "a folder or a shard, not a file"


def look_up_files(places: list[str], medium: Medium = "pictures") -> pa.Table:
    """Look files up.

    Args:
        places: Absolute URIs.
        medium: What samples are.

    Returns:
        A row a file, in order, schema `LISTED`: a sample, or the reason why it is none.
    """
    parts = [places[at : at + FILES_PER_TASK] for at in range(0, len(places), FILES_PER_TASK)]
    if not parts:
        return LISTED.empty_table()
    items = [{"part": number, "places": part} for number, part in enumerate(parts)]
    dataset = ray.data.from_items(items, override_num_blocks=len(items))
    dataset.context.execution_options.preserve_order = True
    dataset.context.execution_no_progress_timeout_s = -1
    found = map_in_tasks(
        dataset, partial(_look_up_part, medium=medium), batch_size=1, batch_format="pyarrow"
    )
    said_to(found, "looking up samples", len(places))
    tables = list(found.iter_batches(batch_size=None, batch_format="pyarrow"))
    return pa.concat_tables(tables)


def _look_up_part(items: pa.Table, medium: Medium) -> pa.Table:
    places = list(chain.from_iterable(items["places"].to_pylist()))
    threads = LOCAL_THREADS if uris.is_local(places[0]) else REMOTE_THREADS
    with ThreadPoolExecutor(threads, thread_name_prefix="look-up") as pool:
        entries = pool.map(_entry, places)
        rows = list(chain.from_iterable(_row(entry, medium) for entry in entries))
    return per_clip(pa.Table.from_pylist(rows, schema=LISTED), per_video=1)


def _row(entry: Entry, medium: Medium) -> Iterator[dict[str, object]]:
    """Make one row of an entry, whatever it holds."""
    if entry.problem is None and entry.uri.lower().endswith(".tar"):
        entry = entry._replace(problem=NO_FILE)
    return iter(list(rows_of([entry], Selection(medium=medium)))[:1])


def _entry(uri: str) -> Entry:
    for form in forms_of(uri):
        try:
            found = look_up(form)
        except (ValueError, FileNotFoundError, NotADirectoryError, StopIteration):
            continue
        except (Refused, PermissionError) as error:
            return Entry(uri, problem=REFUSED, message=str(error))
        same = found.uri.rstrip("/") == uris.absolute(form).rstrip("/")
        return found if same else Entry(uri, problem=NO_FILE)
    return Entry(uri, problem=MISSING)
