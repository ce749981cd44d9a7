"""What lies beside an image in a tar shard and says something of it, as WebDataset has it: `0.cls`,
`0.json`, `0.txt`.

A manifest keeps such files among what was left out. A pack takes them along, each under the key of
its image, so that labels and captions outlive it.
"""

from collections import defaultdict
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import schema
from pipelines.corpus.file_kinds import suffix_of
from pipelines.corpus.left_out import rows_of_shard
from pipelines.corpus.manifest import Manifest
from pipelines.labels.sidecars import key_of
from pipelines.storage.parquet_files import open_parquet

SUFFIXES = (".cls", ".json", ".txt")
MAX_BYTES = 1 << 20  # more is no label and no caption
BESIDE = "beside"
BESIDE_TYPE = pa.list_(
    pa.struct(
        [
            pa.field("suffix", pa.string()),
            pa.field(schema.OFFSET, pa.int64()),
            pa.field(schema.LENGTH, pa.int64()),
        ]
    )
)


class TextsBeside:
    """Finds the texts beside the members of shards, one shard in memory at a time.

    Args:
        manifest: Whose samples are asked for.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._file = open_parquet(manifest.left_out_uri) if manifest.left_out_uri else None
        self._of_shard = lru_cache(maxsize=2)(self._read_shard)

    def of(self, shards: list[str], members: list[str | None]) -> pa.Array:
        """Return what lies beside each sample, type `BESIDE_TYPE`."""
        found: list[list[dict[str, Any]]] = []
        for shard, member in zip(shards, members, strict=True):
            texts = self._of_shard(shard) if member is not None and self._file else {}
            found.append(texts.get(key_of(member), []) if member is not None else [])
        return pa.array(found, BESIDE_TYPE)

    def _read_shard(self, shard: str) -> dict[str, list[dict[str, Any]]]:
        """Read the texts of one shard, by key."""
        assert self._file is not None
        texts: dict[str, list[dict[str, Any]]] = defaultdict(list)
        table = rows_of_shard(self._file, shard)
        # "no image", or of other media "no video", "no sound"
        for row in table.filter(pc.starts_with(table["reason"], "no ")).to_pylist():
            suffix = suffix_of(row[schema.MEMBER] or "")
            if suffix in SUFFIXES and 0 < row[schema.LENGTH] <= MAX_BYTES:
                place = {name: row[name] for name in (schema.OFFSET, schema.LENGTH)}
                texts[key_of(row[schema.MEMBER])].append({"suffix": suffix[1:]} | place)
        return texts
