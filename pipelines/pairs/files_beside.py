"""Files that lie beside samples and belong to them: second images, captions. Found by name, and
fetched as samples are."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import tee
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines import schema
from pipelines.corpus.left_out import rows_of_shard
from pipelines.media.contract import BadSample, Limits
from pipelines.pairs.name_rule import second_name
from pipelines.storage import uris
from pipelines.storage.parquet_files import open_parquet
from pipelines.storage.threads import pool
from pipelines.stream.payload import Payload, payloads, reads
from pipelines.stream.stage_times import Stopwatch

THREADS = 32  # that ask for the sizes of loose files
_Place = tuple[str, int, int]  # URI, offset and length


@dataclass(frozen=True)
class FilesBeside:
    """Where the files beside samples are.

    Attributes:
        rule: Names them, as `second_name` says.
        left_out: URI of the manifest's table of files that are no samples: those in shards are
            found there; None: there is none.
    """

    rule: str
    left_out: str | None = None

    @property
    def named(self) -> tuple[str, ...]:
        """Return the columns that `columns` gives."""
        return ()

    def columns(self, rows: pa.Table) -> dict[str, np.ndarray]:
        """Return what else is known of each row and its file, a column a name."""
        return {}

    def sought(self, rows: pa.Table) -> list[str]:
        """Name the file of each row; nothing where it has none."""
        places = zip(rows[schema.MEMBER].to_pylist(), rows[schema.URI].to_pylist(), strict=True)
        return [second_name(member or address, self.rule) for member, address in places]

    def payloads(
        self,
        blocks: Iterator[pa.Table],
        limits: Limits,
        clock: Stopwatch,
        missing: Callable[[str], BadSample],
    ) -> Iterator[Payload]:
        """Fetch the file beside each row of blocks of manifest rows, in order.

        Yields:
            As `pipelines.stream.payload.payloads`; what `missing` makes of its name where there is
            none, or an empty one.
        """
        addressed, asked = tee(self._addressed(block, clock) for block in blocks)
        fetched = payloads(addressed, limits, clock)
        for rows in asked:
            for row in rows.select([schema.LENGTH, "sought"]).to_pylist():
                payload = next(fetched)
                yield payload if row[schema.LENGTH] else missing(row["sought"])

    def reads(self, blocks: Iterator[pa.Table], limits: Limits) -> tuple[int, int]:
        """Return the requests and the bytes of `payloads` for blocks; the sizes of loose files are
        asked for here too."""
        addressed = [self._addressed(block, Stopwatch()) for block in blocks]
        loose = sum(block[schema.MEMBER].null_count for block in addressed)
        requests, size = reads(iter(addressed), limits)
        return requests + loose, size

    def _addressed(self, rows: pa.Table, clock: Stopwatch) -> pa.Table:
        """Address the files as though they were samples; those that are missing have no bytes."""
        members = rows[schema.MEMBER].to_pylist()
        addresses = rows[schema.URI].to_pylist()
        sought = self.sought(rows)
        with clock.time("fetch"):
            places = self._places(addresses, members, sought)
        columns: dict[str, Any] = {
            schema.URI: [uri for uri, _, _ in places],
            schema.OFFSET: pa.array([offset for _, offset, _ in places], pa.int64()),
            schema.LENGTH: pa.array([length for _, _, length in places], pa.int64()),
            schema.MEMBER: pa.array(members, pa.string()),
            "etag": [""] * len(places),
            schema.MEDIA: ["image"] * len(places),
            "sought": sought,
        }
        return pa.table(columns)

    def _places(
        self, addresses: list[str], members: list[str | None], sought: list[str]
    ) -> list[_Place]:
        loose = [name for name, member in zip(sought, members, strict=True) if member is None]
        sizes = dict(zip(loose, pool("sizes", THREADS).map(_size, loose), strict=True))
        places = list[_Place]()
        for address, member, name in zip(addresses, members, sought, strict=True):
            if member is None:
                places.append((name, 0, sizes[name]))
            else:
                known = _in_shard(self.left_out, address) if self.left_out else {}
                places.append((address, *known.get(name, (0, 0))))
        return places


def _size(uri: str) -> int:
    """Return the bytes of a file, 0 where there is none."""
    if not uri:
        return 0
    try:
        return uris.size(uri)
    except (FileNotFoundError, NotADirectoryError):
        return 0


@lru_cache(maxsize=32)  # as many may be drawn from together: `source.interleave`
def _in_shard(table: str, shard: str) -> dict[str, tuple[int, int]]:
    """Return offset and length of the members of a shard that are no samples, by name."""
    rows = rows_of_shard(open_parquet(table), shard)
    names = [name.removeprefix("./") for name in rows[schema.MEMBER].to_pylist()]
    offsets = rows[schema.OFFSET].to_pylist()
    lengths = rows[schema.LENGTH].to_pylist()
    return dict(zip(names, zip(offsets, lengths, strict=True), strict=True))
