"""Writes samples as WebDataset-compatible tar shards, one task a shard; a shard that is recorded as
done is kept."""

import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import IO, Any

import numpy as np
import pyarrow as pa
import ray.data
import simplejpeg
from PIL import Image

from pipelines import schema
from pipelines.corpus.file_kinds import HEAD_BYTES, IMAGE, kind_of, kind_of_bytes, no_sample
from pipelines.corpus.left_out import NO_EPOCH
from pipelines.corpus.listed_rows import LEFT_OUT, LISTED, sample_id
from pipelines.corpus.listing import look_up
from pipelines.media.contract import BadSample, Limits
from pipelines.media.decoder import PROCESS, kept_decoder
from pipelines.packing.pack_plan import PackPlan
from pipelines.packing.texts_beside import BESIDE
from pipelines.ray_tasks import map_in_tasks, said_to
from pipelines.storage import uris
from pipelines.storage.lease import Fence
from pipelines.storage.parquet_files import read_table, write_table
from pipelines.storage.small_files import side_by_side
from pipelines.stream import quarantine
from pipelines.stream.fetch import fetch

FETCH_BYTES = 16 << 20  # read at a time by one task
MAX_TASKS = 4096  # each costs the planner about 3 ms before the first shard
_ORIGIN = (
    ("sample_id", pa.int64()),
    ("uri", pa.string()),
    ("offset", pa.int64()),
    ("member", pa.string()),
)
DONE = pa.schema([*LISTED, *(pa.field(f"origin_{name}", kind) for name, kind in _ORIGIN)])

_SAMPLES = (IMAGE, schema.VIDEO, schema.AUDIO)


@dataclass(frozen=True)
class Reencoding:
    """How images are made smaller.

    Attributes:
        max_side: Longer side at most, px.
        quality: Of JPEG, 1 to 100.
    """

    max_side: int
    quality: int


@dataclass(frozen=True)
class Pack:
    """A pack in progress: what lies where under `out`.

    Attributes:
        out: The folder.
        reencoding: None: bytes stay as they are.
        limits: How images are read, when re-encoding.
        fence: Of the pack's lease on the folder; None: it holds none.
    """

    out: str
    reencoding: Reencoding | None
    limits: Limits
    fence: Fence | None = None

    @property
    def plan(self) -> str:
        """Return the URI of the plan."""
        return uris.join(self.out, "plan")

    @property
    def shards(self) -> str:
        """Return the folder of the shards."""
        return uris.join(self.out, "shards")

    @property
    def quarantine(self) -> str:
        """Return the folder of the quarantine table."""
        return uris.join(self.out, "quarantine")

    def shard(self, number: int) -> str:
        """Return the URI of a shard."""
        return uris.join(self.shards, f"{number:06d}.tar")

    def done(self, *number: int) -> str:
        """Return the URI of the record that a shard is whole, or the folder of all."""
        return uris.join(self.out, "done", *(f"{i:06d}.parquet" for i in number))

    def missing(self, num_shards: int) -> list[int]:
        """Return the shards that are not recorded as done."""
        there = set(uris.list_names(self.done()))
        return [number for number in range(num_shards) if f"{number:06d}.parquet" not in there]

    def listed(self, num_shards: int) -> Iterator[pa.Table]:
        """Yield the samples of all finished shards as a listing would find them."""
        return side_by_side(self._listed, range(num_shards))

    def _listed(self, number: int) -> pa.Table:
        return read_table(self.done(number)).select(LISTED.names)


def write_shards(pack: Pack, shards: list[int]) -> Iterator[dict[str, Any]]:
    """Write shards in parallel.

    Yields:
        For each that is finished its `shard`, `rows`, `bytes`, `quarantined` and `reasons`.
    """
    items = [{"shard": number} for number in shards]
    dataset = ray.data.from_items(items, override_num_blocks=min(len(items), MAX_TASKS))
    dataset.context.execution_no_progress_timeout_s = -1  # a shard may take minutes
    write = partial(_write_batch, pack=pack)
    written = map_in_tasks(dataset, write, batch_size=1, batch_format="pyarrow")
    said_to(written, "packing shards", len(shards))
    for batch in written.iter_batches(batch_size=None, batch_format="pyarrow"):
        assert isinstance(batch, pa.Table)
        yield from batch.to_pylist()


def _write_batch(shards: pa.Table, pack: Pack) -> pa.Table:
    return pa.Table.from_pylist([write_shard(pack, row["shard"]) for row in shards.to_pylist()])


@lru_cache(maxsize=1)
def _plan(uri: str) -> PackPlan:
    """Open the plan once a process."""
    return PackPlan(uri)


def write_shard(pack: Pack, number: int) -> dict[str, Any]:
    """Write one shard, then its quarantined samples, then the record that it is done.

    Returns:
        `shard`, `rows`, `bytes`, `quarantined`, and as JSON its `reasons` with their counts.
    """
    rows = _plan(pack.plan).read(number)
    members: list[dict[str, Any]] = []
    bad: list[dict[str, Any]] = []
    with uris.open_atomic(pack.shard(number)) as file, _tar(file) as tar:
        for chunk in _chunks(rows):
            for row, payload in zip(chunk.to_pylist(), fetch(chunk), strict=True):
                stage = "fetch" if isinstance(payload, BadSample) else "decode"
                try:
                    members.append(_add(tar, row, payload, pack))
                    members += _add_texts(tar, row)
                except BadSample as problem:
                    bad.append(_bad_row(row, problem, stage))
        if pack.fence:
            pack.fence.check()
    quarantine.write(pack.quarantine, f"shard-{number:06d}", bad)
    shard = look_up(pack.shard(number))
    for member in members:
        member[schema.SAMPLE_ID] = sample_id(shard.uri, member["member"], shard.etag)
        member |= {schema.URI: shard.uri, "etag": shard.etag}
    write_table(pack.done(number), pa.Table.from_pylist(members, schema=DONE))
    rows_packed = sum(member.get(LEFT_OUT.name) is None for member in members)
    reasons = json.dumps(Counter(row[schema.REASON] for row in bad))
    written = {"shard": number, "rows": rows_packed, "bytes": shard.size}
    return written | {"quarantined": len(bad), "reasons": reasons}


def _tar(file: IO[bytes]) -> tarfile.TarFile:
    """Begin an archive that is written from front to end, each member with one header."""
    return tarfile.open(fileobj=file, mode="w|", format=tarfile.GNU_FORMAT, bufsize=1 << 20)


def _chunks(rows: pa.Table) -> Iterator[pa.Table]:
    """Cut rows to pieces whose bytes fit in memory."""
    ends = np.cumsum(rows[schema.LENGTH].to_numpy())
    edges = np.unique(np.searchsorted(ends // FETCH_BYTES, np.arange(ends[-1] // FETCH_BYTES + 1)))
    for start, stop in zip(edges, [*edges[1:], rows.num_rows], strict=True):
        yield rows.slice(start, stop - start)


def _add(
    tar: tarfile.TarFile, row: dict[str, Any], payload: bytes | BadSample, pack: Pack
) -> dict[str, Any]:
    """Append a sample to the shard; gives what a listing would say of it, but for the shard's own
    etag."""
    if isinstance(payload, BadSample):
        raise payload
    suffix = _suffix(row, payload)
    if pack.reencoding and row["media"] == "image":
        payload, suffix = _reencoded(payload, suffix, pack.reencoding, pack.limits)
    # WebDataset's key ends at the first dot of the name: the id has none.
    member = tarfile.TarInfo(f"{row[schema.SAMPLE_ID] & (1 << 64) - 1:016x}.{suffix}")
    member.size = len(payload)
    offset = tar.offset + tarfile.BLOCKSIZE
    tar.addfile(member, io.BytesIO(payload))
    origin = {f"origin_{name}": row[f"origin_{name}"] for name in ("uri", "offset", "member")}
    what = {
        schema.OFFSET: offset,
        schema.LENGTH: len(payload),
        "member": member.name,
        "media": kind_of(member.name).what,
    }
    return what | origin | {"origin_sample_id": row[schema.SAMPLE_ID]}


def _add_texts(tar: tarfile.TarFile, row: dict[str, Any]) -> list[dict[str, Any]]:
    """Append what lay beside a sample under the sample's key; gives what a listing would say of
    it."""
    beside = row.get(BESIDE) or []
    if not beside:
        return []
    places = {name: [one[name] for one in beside] for name in (schema.OFFSET, schema.LENGTH)}
    count = len(beside)
    table = pa.table(
        {
            schema.URI: [row[schema.URI]] * count,
            **places,
            schema.MEMBER: [row["origin_member"]] * count,
            "etag": [""] * count,
        }
    )
    added = []
    for one, data in zip(beside, fetch(table), strict=True):
        if isinstance(data, BadSample):  # the sample is there, and its label is missed when asked
            continue
        member = tarfile.TarInfo(f"{row[schema.SAMPLE_ID] & (1 << 64) - 1:016x}.{one['suffix']}")
        member.size = len(data)
        what = {schema.OFFSET: tar.offset + tarfile.BLOCKSIZE, schema.LENGTH: len(data)}
        tar.addfile(member, io.BytesIO(data))
        reason = {LEFT_OUT.name: no_sample(member.name), schema.MEDIA: ""}
        added.append(what | reason | {"member": member.name})
    return added


def _bad_row(row: dict[str, Any], problem: BadSample, stage: str) -> dict[str, Any]:
    found_at = row | {schema.URI: row["origin_uri"], schema.OFFSET: row["origin_offset"]}
    found_at[schema.MEMBER] = row["origin_member"]
    return quarantine.bad_row(found_at, problem, stage=stage, epoch=NO_EPOCH, run="pack")


def _suffix(row: dict[str, Any], data: bytes) -> str:
    """Return the suffix of a member: a text's, the name's, or what the bytes look like."""
    if row["media"] == schema.TEXT:  # one of those that a file holds
        return "txt"
    name: str | None = row["name"]
    if name and kind_of(name).what in _SAMPLES:
        return name.rpartition(".")[2].lower()
    return kind_of_bytes(data[:HEAD_BYTES]).suffix or "jpg"


def _reencoded(data: bytes, suffix: str, wanted: Reencoding, limits: Limits) -> tuple[bytes, str]:
    """Shrink an image to the wanted side as JPEG; a JPEG that is no larger stays as it is.

    Raises:
        BadSample: it cannot be decoded.
    """
    # what hangs or crashes in it costs a sample, not the shard
    image = kept_decoder(limits, PROCESS).image(data).pixels
    height, width = image.shape[:2]
    factor = wanted.max_side / max(height, width)
    if factor >= 1 and data.startswith(b"\xff\xd8\xff"):
        return data, "jpg" if suffix not in ("jpg", "jpeg") else suffix
    if factor < 1:
        size = max(1, round(width * factor)), max(1, round(height * factor))
        image = np.asarray(
            Image.fromarray(image).resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
        )
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(image), wanted.quality, colorsubsampling="420"
    ), "jpg"


def measure(rows: pa.Table, pack: Pack) -> float:
    """Re-encode a few samples; return the bytes they will have for each that they have now."""
    assert pack.reencoding is not None
    before = after = 0
    for chunk in _chunks(rows):
        for row, payload in zip(chunk.to_pylist(), fetch(chunk), strict=True):
            before += row[schema.LENGTH]
            try:
                if not isinstance(payload, BadSample) and row["media"] == "image":
                    payload, _ = _reencoded(payload, "", pack.reencoding, pack.limits)
            except BadSample:
                continue
            after += 0 if isinstance(payload, BadSample) else len(payload)
    return max(after / max(before, 1), 1e-3)
