"""The quarantine: every sample that could not be used, with URI and reason, as Parquet parts in the
run directory.

A part is named by the plan item that met the samples and by which samples they are, and never
changes: a task that is run again writes the same part again. `compact` puts parts together as they
become many: it writes the joined part, named by its number of rows, and then deletes those it
holds. Killed between the two, it leaves rows that lie there twice. Whoever reads here takes a
sample once an epoch, as the newest row has it.
"""

import hashlib
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import accumulate
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines import schema
from pipelines.corpus.left_out import most_frequent
from pipelines.media.contract import BadSample
from pipelines.storage import uris
from pipelines.storage.parquet_files import open_parquet, write_table
from pipelines.storage.small_files import (
    read_many,
    read_small,
    read_while_joined,
    remove_many,
)

MANY = 1000  # parts that are put together while a job runs; a listing of S3 holds as many
FEW = 100  # at its end
MANY_JOINED = 32
MOST_ROWS = 1_000_000  # of a joined part that is put together with others
EVERY_S = 60.0
_JOINED = re.compile(r"joined-\d{9,}-[0-9a-f]{12}\.parquet")
_KEYS = (schema.SAMPLE_ID, schema.EPOCH, schema.REASON, "time")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Summary:
    """What a quarantine holds.

    Attributes:
        reasons: Distinct samples by reason, most frequent first.
        num_samples: Distinct samples.
        examples: Some of each reason: their URIs and messages, in the order of the URIs.
    """

    reasons: dict[str, int]
    num_samples: int
    examples: dict[str, list[tuple[str, str]]]


def bad_row(
    row: dict[str, Any], problem: BadSample, *, stage: str, epoch: int, run: str
) -> dict[str, Any]:
    """Describe one bad sample as a row of the quarantine table."""
    identity = {
        name: row[name] for name in (schema.SAMPLE_ID, schema.URI, schema.OFFSET, schema.LENGTH)
    }
    identity[schema.MEMBER] = row.get(schema.MEMBER)
    what = {"stage": stage, "reason": problem.reason, "message": problem.message}
    return identity | what | {schema.EPOCH: epoch, "run": run, "time": datetime.now(UTC)}


def write(folder: str, item: str, rows: list[dict[str, Any]]) -> None:
    """Write bad samples of one plan item as one part; nothing where there are none."""
    if rows:
        keys = (f"{row[schema.EPOCH]} {row[schema.SAMPLE_ID]} {row['reason']}" for row in rows)
        table = pa.Table.from_pylist(rows, schema=schema.QUARANTINE)
        write_table(uris.join(folder, f"{item}-{_hash(keys)}.parquet"), table)


def _hash(texts: Iterable[str]) -> str:
    return hashlib.blake2b("\n".join(texts).encode(), digest_size=6).hexdigest()


def read(folder: str) -> list[dict[str, Any]]:
    """Read all rows, each sample once per epoch, ordered by URI, epoch and place; for few of
    them."""
    found = _all(folder, partial(_read_part, columns=schema.QUARANTINE.names))
    rows = _newest(pa.concat_tables([schema.QUARANTINE.empty_table(), *found]))
    order = [(name, "ascending") for name in (schema.URI, schema.EPOCH, schema.OFFSET)]
    return list(rows.sort_by(order).to_pylist())


def summarise(folder: str, examples: int = 0) -> Summary:
    """Count what a quarantine holds; unless examples are wanted, of joined parts the columns that
    are counted are read and no more."""
    found = _all(folder, partial(_sum_up, examples=examples))
    keys = [schema.QUARANTINE.empty_table().select(_KEYS), *(keys for keys, _ in found)]
    rows = _newest(pa.concat_tables(keys))
    distinct = rows.group_by([schema.SAMPLE_ID, schema.REASON]).aggregate([])
    counted = pc.value_counts(distinct[schema.REASON]).to_pylist()
    reasons = most_frequent(Counter({pair["values"]: pair["counts"] for pair in counted}))
    shown: dict[str, dict[str, str]] = {}
    for reason, of_part in ((reason, some) for _, part in found for reason, some in part.items()):
        shown.setdefault(reason, {}).update(of_part)
    first = {reason: sorted(some.items())[:examples] for reason, some in shown.items()}
    return Summary(reasons, pc.count_distinct(rows[schema.SAMPLE_ID]).as_py(), first)


def sample_ids(folder: str) -> np.ndarray:
    """Return the ids of all samples in a quarantine, each once, ascending, (n,) int64."""
    found = _all(folder, partial(_read_part, columns=[schema.SAMPLE_ID]))
    ids = [table[schema.SAMPLE_ID].to_numpy() for table in found]
    return np.unique(np.concatenate([np.empty(0, np.int64), *ids]))


def _sum_up(uri: str, *, examples: int) -> tuple[pa.Table, dict[str, dict[str, str]]]:
    """Read what is counted of a part, and of each reason the messages of the first URIs."""
    if not examples:
        return _read_part(uri, columns=_KEYS), {}
    table = _read_part(uri, columns=[*_KEYS, schema.URI, "message"])
    shown = {}
    for reason in pc.unique(table[schema.REASON]).to_pylist():
        found = table.filter(pc.field(schema.REASON) == reason)
        there = pa.table({schema.URI: pc.unique(found[schema.URI])})
        first = there.take(pc.select_k_unstable(there, examples, [(schema.URI, "ascending")]))
        rows = found.filter(pc.is_in(found[schema.URI], first[schema.URI])).to_pylist()
        shown[reason] = {row[schema.URI]: row["message"] for row in rows}
    return table.select(_KEYS), shown


def _newest(table: pa.Table) -> pa.Table:
    """Keep the newest row of each sample and epoch."""
    time = table["time"].cast(pa.int64()).to_numpy()
    epoch, sample_id = (table[name].to_numpy() for name in (schema.EPOCH, schema.SAMPLE_ID))
    order = np.lexsort((time, sample_id, epoch))
    last = np.ones(len(order), bool)
    same = sample_id[order[1:]] == sample_id[order[:-1]]
    last[:-1] = ~(same & (epoch[order[1:]] == epoch[order[:-1]]))
    return table.take(order[last])


def _parts(folder: str) -> list[str]:
    """List the parts; what else lies there is somebody else's."""
    return [name for name in uris.list_names(folder) if _is_part(name)]


def _is_part(name: str) -> bool:
    return name.endswith(".parquet") and not name.startswith(".")


def _is_joined(name: str) -> bool:
    return bool(_JOINED.fullmatch(name))


def _all(folder: str, parse: Callable[[str], Result]) -> list[Result]:
    """Read all parts by `parse`, which gets their URIs."""

    def read_some(names: list[str]) -> list[Result]:
        return list(read_many(folder, names, parse))

    return read_while_joined(partial(_parts, folder), _is_joined, read_some)


def _read_part(uri: str, *, columns: Sequence[str]) -> pa.Table:
    """Read some columns of a part: of a small one in one request for the whole."""
    if _is_joined(uri.rpartition("/")[2]):
        return open_parquet(uri).read(columns=columns)
    return pq.ParquetFile(pa.BufferReader(read_small(uri))).read(columns=columns)


def compact(folder: str, least: int = MANY) -> None:
    """Put parts together where there are at least so many; others may write and read meanwhile."""
    loose = [name for name in _parts(folder) if not _is_joined(name)]
    for start in range(0, len(loose), MANY):
        group = loose[start : start + MANY]
        if len(group) >= min(least, MANY):
            _join(folder, group)
    joined = sorted(filter(_is_joined, _parts(folder)), key=_rows)
    totals = accumulate(map(_rows, joined))
    small = [name for name, rows in zip(joined, totals, strict=True) if rows <= MOST_ROWS]
    if len(small) >= MANY_JOINED:
        _join(folder, small)


def _rows(joined: str) -> int:
    return int(joined.split("-")[1])


def _join(folder: str, names: list[str]) -> None:
    """Write one part that holds others, then delete them."""
    parse = partial(_read_part, columns=schema.QUARANTINE.names)
    try:
        tables = list(read_many(folder, names, parse))
    except FileNotFoundError:
        return  # somebody else is at it
    rows = _newest(pa.concat_tables(tables))
    name = f"joined-{rows.num_rows:09d}-{_hash(names)}.parquet"
    write_table(uris.join(folder, name), rows)
    remove_many(folder, [other for other in names if other != name])


@contextmanager
def compacting(folder: str) -> Iterator[None]:
    """Put parts together from time to time while the block runs, and at its end."""
    done = threading.Event()

    def work() -> None:
        while not done.wait(EVERY_S):
            with suppress(OSError):  # tried again; whoever counts at the end says what is wrong
                compact(folder)

    thread = threading.Thread(target=work, name="quarantine", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
    thread.join()
    compact(folder, FEW)
