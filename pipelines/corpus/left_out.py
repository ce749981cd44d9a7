"""The files of a source that are no samples: streamed to a quarantine table of stage `index`, and
counted by reason."""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines import schema
from pipelines.corpus.listed_rows import LEFT_OUT, MESSAGE

NO_EPOCH = -1  # the index comes before any epoch
MOST_REASONS = 20  # of a list that people read, or that a version of a manifest holds
MOST_COUNTED = 2000  # while a corpus is listed: every odd suffix makes a reason of its own
ROW_GROUP_ROWS = 1 << 15
OTHERS = "others"
_KEPT = (schema.SAMPLE_ID, schema.URI, schema.OFFSET, schema.LENGTH, schema.MEMBER)


def most_frequent(counts: Mapping[str, int], most: int = MOST_REASONS) -> dict[str, int]:
    """Keep the most frequent reasons in their order, and the sum of all others as `others`."""
    known = Counter({reason: count for reason, count in counts.items() if reason != OTHERS})
    kept = dict(known.most_common(most))
    if rest := sum(counts.values()) - sum(kept.values()):
        kept[OTHERS] = rest
    return kept


def told(counts: Mapping[str, int], most: int = MOST_REASONS) -> str:
    """Say in one line of bounded length how many there are of each reason."""
    return ", ".join(f"{count} x {reason}" for reason, count in most_frequent(counts, most).items())


def rows_of_shard(file: pq.ParquetFile, shard: str) -> pa.Table:
    """Read what a table of left-out files says of a shard and its members, from the row groups
    whose statistics allow for some.

    Args:
        file: The table, rows of schema `schema.QUARANTINE`.
        shard: Its URI.
    """
    groups = [group for group in range(file.num_row_groups) if _may_hold(file, group, shard)]
    table = file.read_row_groups(groups, columns=[*_KEPT, "reason"])
    return table.filter(pc.equal(table[schema.URI], shard))


def _may_hold(file: pq.ParquetFile, group: int, shard: str) -> bool:
    """Tell by its statistics whether a row group may name a shard."""
    column = file.schema_arrow.get_field_index(schema.URI)
    known = file.metadata.row_group(group).column(column).statistics
    if known is None or not known.has_min_max:
        return True
    return bool(known.min <= shard <= known.max)


class LeftOut:
    """Writes left-out rows of a listing to a local Parquet file as they come.

    Args:
        path: The file.
        run: Name of the indexing, for the table's column.

    Attributes:
        path: The file.
        counts: Rows by reason; beyond `MOST_COUNTED` of them, the rarest together as `others`.
    """

    def __init__(self, path: str, run: str) -> None:
        self.path = path
        self.counts: Counter[str] = Counter()
        self._run = run
        self._time = datetime.now(UTC)
        self._writer = pq.ParquetWriter(path, schema.QUARANTINE)
        self._waiting: list[pa.Table] = []

    def __enter__(self) -> "LeftOut":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._flush()
        self._writer.close()

    def add(self, listed: pa.Table) -> None:
        """Take rows of schema `listed_rows.LISTED`; those that are samples are passed over."""
        rows = listed.filter(pc.is_valid(listed[LEFT_OUT.name]))
        if not rows.num_rows:
            return
        counted = pc.value_counts(rows[LEFT_OUT.name]).to_pylist()
        self.counts.update({str(row["values"]): row["counts"] for row in counted})
        if len(self.counts) > MOST_COUNTED:
            self.counts = Counter(most_frequent(self.counts, MOST_COUNTED // 2))
        columns = {name: rows[name] for name in _KEPT}
        columns |= {"reason": rows[LEFT_OUT.name], "message": pc.fill_null(rows[MESSAGE.name], "")}
        constant = {"stage": "index", schema.EPOCH: NO_EPOCH, "run": self._run, "time": self._time}
        columns |= {
            name: pa.repeat(pa.scalar(value, schema.QUARANTINE.field(name).type), rows.num_rows)
            for name, value in constant.items()
        }
        self._waiting.append(pa.table(columns, schema=schema.QUARANTINE))
        if sum(table.num_rows for table in self._waiting) >= ROW_GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting))
        self._waiting = []
